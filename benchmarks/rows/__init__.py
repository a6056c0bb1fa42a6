"""One program a row of the table: its cells, and how they are measured. run.py finds them."""
