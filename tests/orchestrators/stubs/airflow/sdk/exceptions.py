"""The exceptions of Airflow that the documentation uses."""


class AirflowFailException(Exception): ...
