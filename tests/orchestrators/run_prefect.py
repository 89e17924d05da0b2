"""Runs the flow of the documentation: once with its token, once with a wrong one. Prints the result as JSON."""

import json
import os

from flow import shop

out = os.environ["OUT"]
good = shop(out)
os.environ["SHOP_TOKEN"] = "wrong"
bad = shop(out, return_state=True)
counts = {f"{name}_records": count for name, count in good.items()}
print(json.dumps({"ok": True, "refused": bad.is_failed(), **counts}))
