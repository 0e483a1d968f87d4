"""What people add, over the workspace: one file per kind, each with a ``router``.

Rows carry an etag, also as the header ``ETag``. A change names the state it was made to in ``If-Match``; if another
came first, nothing is written, and 412 brings the row as it stands.
"""
