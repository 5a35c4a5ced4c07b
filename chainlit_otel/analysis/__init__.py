"""Looks back: from records to tables, and from these to an export or a report.

What is asked is SQL, in DuckDB's dialect. `views/` makes the tables `sessions`, `turns`, `feedback`
and `scores` of the records; each file in `queries/` is one question about these. DuckDB answers it
over files, ClickHouse over the log events that a collector has put there.
"""
