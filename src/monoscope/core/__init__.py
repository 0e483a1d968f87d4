"""Ground floor: values and text. Imports no sibling."""
