"""An S3 server for reading only, over a folder: what a client costs, without what the server of the tests costs.

moto reads an object whole for each range of it, and answers from one interpreter. This one sends ranges of files by the
kernel. It knows GET, HEAD, ranges and listings, waits before each answer for as long as it is told, and checks nothing.
"""

from __future__ import annotations

import http.server
import re
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

_RANGE = re.compile(r"bytes=(\d+)-(\d+)")


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    folder: Path
    delay_s: float


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(6, 1, 1)  # TCP_NODELAY: header and body are written apart

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        time.sleep(self.server.delay_s)
        address = urlsplit(self.path)
        name = unquote(address.path).lstrip("/").partition("/")[2]  # behind the bucket
        if "list-type" in address.query:
            self._answer(200, self._listing(parse_qs(address.query)))
        elif (self.server.folder / name).is_file():
            self._send(self.server.folder / name)
        else:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")

    def _send(self, path: Path) -> None:
        size = path.stat().st_size
        asked = _RANGE.fullmatch(self.headers.get("Range", ""))
        start, stop = (int(asked[1]), min(int(asked[2]) + 1, size)) if asked else (0, size)
        self.send_response_only(206 if asked else 200)
        self.send_header("Content-Length", str(stop - start))
        self.send_header("Last-Modified", self.date_time_string(path.stat().st_mtime))
        self.send_header("ETag", f'"{path.stat().st_mtime_ns}"')
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        self.end_headers()
        if self.command == "GET" and stop > start:
            with path.open("rb") as file:
                self.connection.sendfile(file, start, stop - start)

    def _listing(self, query: dict[str, list[str]]) -> bytes:
        prefix = query.get("prefix", [""])[0]
        folder = self.server.folder / prefix
        entries = sorted(folder.iterdir()) if folder.is_dir() else []
        if "delimiter" not in query:
            entries = sorted(path for path in folder.rglob("*") if path.is_file())
        found = []
        for path in entries:
            name = escape(path.relative_to(self.server.folder).as_posix())
            if path.is_dir():
                found.append(f"<CommonPrefixes><Prefix>{name}/</Prefix></CommonPrefixes>")
            else:
                moment = datetime.fromtimestamp(int(path.stat().st_mtime), UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
                about = f"<LastModified>{moment}</LastModified><Size>{path.stat().st_size}</Size>"
                found.append(f'<Contents><Key>{name}</Key><ETag>"0"</ETag>{about}</Contents>')
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{''.join(found)}</ListBucketResult>".encode()

    def _answer(self, status: int, content: bytes) -> None:
        self.send_response_only(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


def main() -> None:
    """Serve a folder until standard input ends: `python -m benchmarks.object_server FOLDER DELAY_S`."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.folder, server.delay_s = Path(sys.argv[1]), float(sys.argv[2])
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
