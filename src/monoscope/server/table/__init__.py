"""The table of all features of a bundle: filtered and sorted by DuckDB in memory, paged from Arrow columns."""
