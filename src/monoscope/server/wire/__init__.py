"""What crosses the wire: one short file per subject. The OpenAPI document and the interface's types come from these."""
