"""The operator of Airflow that runs a command."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping

from airflow.sdk import DAG, Connection


class BashOperator:
    def __init__(self, *, task_id: str, bash_command: str, cwd: str, env: Mapping[str, str], append_env: bool) -> None:
        self.task_id, self.bash_command, self.cwd = task_id, bash_command, cwd
        self.env = {**(os.environ if append_env else {}), **env}
        DAG.building[-1].operators.append(self)

    def execute(self) -> None:
        """Raises CalledProcessError for every exit code but 0."""
        password = Connection.get("shop").password
        env = {name: value.replace("{{ conn.shop.password }}", password) for name, value in self.env.items()}
        subprocess.run(["bash", "-c", self.bash_command], cwd=self.cwd, env=env, check=True)
