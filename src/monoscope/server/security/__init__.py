"""Who is let in, and with what: addresses, tokens, origins, sizes, and the headers of every answer."""
