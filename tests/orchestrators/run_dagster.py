"""Materializes the asset of the documentation, once with a wrong token. Prints the result as JSON."""

import json
import os

import dagster as dg
from definitions import defs, hourly, shop

good = dg.materialize([shop], resources=defs.resources, raise_on_error=False)
os.environ["SHOP_TOKEN"] = "wrong"
bad = dg.materialize([shop], resources=defs.resources, raise_on_error=False)
metadata = {name: value.value for name, value in good.asset_materializations_for_node("shop")[0].metadata.items()}
print(json.dumps({"ok": good.success, "refused": not bad.success, "cron": hourly.cron_schedule, **metadata}))
