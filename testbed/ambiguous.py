"""Requests over a socket whose end can be read in two ways; behind one of them stands another request."""

HIDDEN = "/hidden"
"""The path of the request that stands in what is no request."""
HIDDEN_ID = "hidden-request"


def _hidden() -> bytes:
    return f"GET {HIDDEN} HTTP/1.1\r\nHost: a\r\nx-request-id: {HIDDEN_ID}\r\n\r\n".encode()


def _both_lengths(transfer: bytes, length: int | None = None) -> bytes:
    """Its chunks end at once; by its length the hidden request is a part of it."""
    body = b"0\r\n\r\n" + _hidden()
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n%b\r\n\r\n" % (length or len(body), transfer)
    return head + body


def _with(*headers: bytes, body: bytes = b"") -> bytes:
    return b"POST / HTTP/1.1\r\nHost: a\r\n" + b"".join(header + b"\r\n" for header in headers) + b"\r\n" + body


AMBIGUOUS = {
    "both lengths": _both_lengths(b"Transfer-Encoding: chunked"),
    "both lengths, other way round": _with(
        b"Transfer-Encoding: chunked", b"Content-Length: 4", body=b"%x\r\n%b\r\n0\r\n\r\n" % (len(_hidden()), _hidden())
    ),
    "a space before the colon": _both_lengths(b"Transfer-Encoding : chunked"),
    "a tab before the value": _both_lengths(b"Transfer-Encoding:\tchunked"),
    "a folded header": _both_lengths(b"Transfer-Encoding:\r\n chunked"),
    "another encoding": _both_lengths(b"Transfer-Encoding: xchunked"),
    "two encodings": _both_lengths(b"Transfer-Encoding: chunked, identity"),
    "two encoding headers": _both_lengths(b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked"),
    "an encoding in quotes": _both_lengths(b'Transfer-Encoding: "chunked"'),
    "an encoding behind a control character": _both_lengths(b"Transfer-Encoding: \x0bchunked"),
    "an encoding behind a lone newline": _both_lengths(b"X: y\nTransfer-Encoding: chunked"),
    "an encoding behind a lone return": _both_lengths(b"X: y\rTransfer-Encoding: chunked"),
    "underscores": _both_lengths(b"Transfer_Encoding: chunked"),
    "two different lengths": _with(b"Content-Length: 0", b"Content-Length: %d" % len(_hidden()), body=_hidden()),
    "two different lengths, other way round": _with(
        b"Content-Length: %d" % len(_hidden()), b"Content-Length: 0", body=_hidden()
    ),
    "a list of lengths": _with(b"Content-Length: %d, 0" % len(_hidden()), body=_hidden()),
    "a length with a sign": _with(b"Content-Length: +%d" % len(_hidden()), body=_hidden()),
    "a negative length": _with(b"Content-Length: -1", body=_hidden()),
    "a hexadecimal length": _with(b"Content-Length: 0x%x" % len(_hidden()), body=_hidden()),
    "a length beyond all numbers": _with(b"Content-Length: 18446744073709551616", body=_hidden()),
    "a chunk's size with a sign": _with(b"Transfer-Encoding: chunked", body=b"-1\r\n" + _hidden()),
    "a chunk's size beyond all numbers": _with(
        b"Transfer-Encoding: chunked", body=b"10000000000000000\r\n" + _hidden() + b"\r\n0\r\n\r\n"
    ),
    "a chunk that ends with a lone newline": _with(
        b"Transfer-Encoding: chunked", body=b"%x\n%b\r\n0\r\n\r\n" % (len(_hidden()), _hidden())
    ),
    "a newline in a chunk's extension": _with(
        b"Transfer-Encoding: chunked", body=b"1;a\n%x\r\n%b\r\n0\r\n\r\n" % (len(_hidden()), _hidden())
    ),
    "an old version": _both_lengths(b"Transfer-Encoding: chunked").replace(b"HTTP/1.1", b"HTTP/1.0", 1),
}
"""Name -> bytes. Whoever reads a request to its end by either way must not find HIDDEN asked for by the other."""
