"""Runs the DAGs of the documentation: with their token, and one with a wrong one. Prints the result as JSON."""

import json
import os

import shop_dags

good = shop_dags.shop().test()
command = shop_dags.shop_command().test()
connection = json.loads(os.environ["AIRFLOW_CONN_SHOP"])
os.environ["AIRFLOW_CONN_SHOP"] = json.dumps({**connection, "password": "wrong"})
bad = shop_dags.shop().test()
print(json.dumps({"ok": good.state == command.state == "success", "refused": bad.state == "failed"}))
