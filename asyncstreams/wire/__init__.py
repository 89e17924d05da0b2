"""The HTTP/1.1 transport: connections, TLS, proxies, and the framing of messages."""
