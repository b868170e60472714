"""A store that speaks S3 and has as many objects as are wanted, all of which are one photo. It keeps none of them."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

FOLDER = "images"  # in any bucket
_PAGE = 1000  # what S3 lists at once
_NAME = re.compile(rf"/[^/]+/{FOLDER}/(\d{{8}})\.jpg")


def made_up_s3(photo: str) -> Callable[[int], str]:
    """Start such a store. Return a function that sets the number of objects, and returns what a URI needs."""
    content = Path(photo).read_bytes()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        objects = 0

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            query = {name: values[-1] for name, values in parse_qs(url.query).items()}
            named = _NAME.fullmatch(url.path)
            if "list-type" in query:
                self._answer(200, _page(query, self.objects), "application/xml")
            elif named and int(named[1]) < self.objects:
                first, last = 0, len(content) - 1
                if wanted := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
                    first, last = int(wanted[1]), min(int(wanted[2]), last)
                self._answer(206 if wanted else 200, content[first : last + 1], "image/jpeg", (first, last))
            else:
                self._answer(200 if url.path.count("/") == 1 else 404, b"", "application/xml")

        def _answer(self, status: int, body: bytes, kind: str, part: tuple[int, int] | None = None) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", '"0"')
            if part and status == 206:
                self.send_header("Content-Range", f"bytes {part[0]}-{part[1]}/{len(content)}")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def of(objects: int) -> str:
        Handler.objects = objects
        return f"?endpoint_override=127.0.0.1:{server.server_port}&scheme=http&region=us-east-1"

    return of


def _page(query: dict[str, str], objects: int) -> bytes:
    """Return a page of the listing, from the object on that the token names."""
    prefix = query.get("prefix", "")
    is_there = f"{FOLDER}/".startswith(prefix) or prefix == f"{FOLDER}/"
    first = int(query.get("continuation-token", 0))
    last = min(first + min(_PAGE, int(query.get("max-keys", _PAGE))), objects) if is_there else first
    contents = "".join(
        f"<Contents><Key>{FOLDER}/{number:08d}.jpg</Key><Size>1</Size><ETag>0</ETag>"
        "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
        for number in range(first, last)
    )
    more = is_there and last < objects
    token = f"<NextContinuationToken>{last}</NextContinuationToken>" if more else ""
    return (
        '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Prefix>{prefix}</Prefix><KeyCount>{last - first}</KeyCount><MaxKeys>{_PAGE}</MaxKeys>"
        f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{contents}</ListBucketResult>"
    ).encode()
