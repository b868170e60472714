"""Input and output on Google Cloud Storage, on Azure and on HDFS, over sockets.

The first two are emulators. On Google's, the list of a folder has no folders in it, but for those that pyarrow made.
The emulator of Azure is Azurite, which npm installs. HDFS is Hadoop's own; see `.ci/hadoop`.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet
import pytest
from kills.drivers import ROWS, write_rows
from PIL import Image
from reference import encode, picture
from sessions import server_port

from ray_segformer.images import to_rgb
from ray_segformer.inputs import find_images
from ray_segformer.outputs import OutputFolder, _lease

IMAGES = ("a/1.png", "a/b/2.png", "a-b.png", "c/3.png")


ACCOUNT = "devstoreaccount1"
# Azurite's only account and its key, which it publishes.
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
SIGNED = {"sp": "racwdl", "se": "2099-01-01T00:00:00Z", "sv": "2021-12-02", "sr": "c"}


@contextlib.contextmanager
def server(*command):
    """A server in a process of its own, and its port."""
    port = server_port()
    command = [part.format(port=port) for part in command]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.05)
        yield port
        process.kill()


@contextlib.contextmanager
def gcs():
    program = str(Path(sys.executable).parent / "gcp-storage-emulator")
    address = ("--host", "127.0.0.1", "--port", "{port}")
    with server(program, "start", *address, "--in-memory", "--default-bucket", "bucket") as port:
        yield f"gs://anonymous@bucket/{{}}?scheme=http&endpoint_override=127.0.0.1:{port}"


@contextlib.contextmanager
def azure():
    program = shutil.which("azurite-blob")
    if program is None:
        pytest.skip("no Azurite on PATH: npm install --global azurite")
    options = ("--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry", "--silent")
    with server(program, "--blobHost", "127.0.0.1", "--blobPort", "{port}", *options) as port:
        address = f"127.0.0.1:{port}"
        authorities = {f"{kind}_storage_authority": address for kind in ("blob", "dfs")}
        schemes = {f"{kind}_storage_scheme": "http" for kind in ("blob", "dfs")}
        pa.fs.AzureFileSystem(account_name=ACCOUNT, account_key=KEY, **authorities, **schemes).create_dir("bucket")
        yield f"abfs://{ACCOUNT}@{address}/bucket/{{}}?enable_tls=false&{urlencode(SIGNED | {'sig': signature()})}"


def signature():
    """Signs an access to the container: learn.microsoft.com/rest/api/storageservices/create-service-sas."""
    start, identifier, addresses, protocol, snapshot, scope = [""] * 6
    resource = f"/blob/{ACCOUNT}/bucket"
    fields = [SIGNED["sp"], start, SIGNED["se"], resource, identifier, addresses, protocol, SIGNED["sv"], SIGNED["sr"]]
    text = "\n".join([*fields, snapshot, scope, *[""] * 5])  # the last are headers of the answer
    return base64.b64encode(hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()).decode()


@contextlib.contextmanager
def hdfs():
    if shutil.which("java") is None or "ARROW_LIBHDFS_DIR" not in os.environ:
        pytest.skip("no Hadoop: needs java, and CLASSPATH and ARROW_LIBHDFS_DIR as .ci/run sets them")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        settings = Path(folder, "settings")
        for service in ("hdfs", "datanode"):  # of their web pages
            (settings / "webapps" / service).mkdir(parents=True)
        names, any_port = f"hdfs://127.0.0.1:{server_port()}", "127.0.0.1:0"
        values = {
            "fs.defaultFS": names,
            "dfs.namenode.http-address": any_port,
            "dfs.namenode.name.dir": f"file://{folder}/names",
            "dfs.datanode.data.dir": f"file://{folder}/data",
            "dfs.replication": "1",
            "dfs.webhdfs.enabled": "false",
            **{f"dfs.datanode.{key}": any_port for key in ("address", "http.address", "ipc.address")},
        }
        rows = (f"<property><name>{name}</name><value>{value}</value></property>" for name, value in values.items())
        text = f"<configuration>{''.join(rows)}</configuration>"
        for name in ("core-site.xml", "hdfs-site.xml"):
            (settings / name).write_text(text)
        classes = f"{settings}:{os.environ['CLASSPATH']}"
        java = ["java", *os.environ.get("LIBHDFS_OPTS", "").split(), "-cp", classes]
        service = "org.apache.hadoop.hdfs.server.{}"
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        name_node = [*java, service.format("namenode.NameNode")]
        subprocess.run([*name_node, "-format", "-nonInteractive"], check=True, **quiet)
        for command in (name_node, [*java, service.format("datanode.DataNode")]):
            stack.callback(stack.enter_context(subprocess.Popen(command, **quiet)).kill)
        store, _ = pa.fs.FileSystem.from_uri(f"{names}/")  # asks until the name node answers
        while True:
            with contextlib.suppress(OSError), store.open_output_stream("/bucket/first") as file:
                file.write(b"1")  # which needs the data node
            if store.get_file_info("/bucket/first").size:
                break
            time.sleep(0.1)
        yield f"{names}/bucket/{{}}"


class Relay:
    """Hands connections on to a server, but for those that are made just after `go_away`.

    Attributes:
        port: where it listens.
        closed: how many connections it closed at once.
    """

    def __init__(self, port: int) -> None:
        self._server, self._to, self._open = socket.create_server(("127.0.0.1", 0)), ("127.0.0.1", port), []
        self.port, self.closed, self._to_close = self._server.getsockname()[1], 0, 0
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def go_away(self, connections: int) -> None:
        """Close what is open, and so many connections that are made from now on."""
        with self._lock:
            self._to_close = connections
            while self._open:
                with contextlib.suppress(OSError):
                    self._open.pop().shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            client, _ = self._server.accept()
            with self._lock:
                if self._to_close:
                    self._to_close, self.closed = self._to_close - 1, self.closed + 1
                    client.close()
                    continue
                server = socket.create_connection(self._to)
                self._open += [client, server]
            for ends in ((client, server), (server, client)):
                threading.Thread(target=self._copy, args=ends, daemon=True).start()

    @staticmethod
    def _copy(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while content := source.recv(1 << 16):
                target.sendall(content)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module", params=[gcs, azure, hdfs], ids=["gcs", "azure", "hdfs"])
def place(request, ray_session):
    """The URI of a path in a bucket, to be formatted."""
    with request.param() as uri:
        yield uri


@pytest.fixture(scope="module")
def store(place):
    """The bucket, as a file system."""
    return pa.fs.SubTreeFileSystem(*reversed(pa.fs.FileSystem.from_uri(place.format(""))))


@pytest.fixture(scope="module")
def names_in(store):
    """Lists the names of the objects below a path."""

    def names(path):
        infos = store.get_file_info(pa.fs.FileSelector(path, recursive=True, allow_not_found=True))
        return sorted(info.path.removeprefix(f"{path}/") for info in infos if info.type == pa.fs.FileType.File)

    return names


@pytest.fixture(scope="module")
def scenes(store, tmp_path_factory):
    """The same images on the store and in a local folder, which is returned."""
    folder = tmp_path_factory.mktemp("scenes")
    for number, name in enumerate(IMAGES):
        content = encode(picture(40 + number, 50, number))
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        with store.open_output_stream(f"in/{name}") as file:
            file.write(content)
    return folder


def test_files_in_folders_are_found_in_order(place, scenes):
    assert [row["name"] + ".png" for row in find_images(place.format("in")).take(9)] == sorted(IMAGES)


def test_a_list_names_images_by_path_and_by_uri(place, store, scenes):
    plain = place.partition("?")[0].replace("anonymous@", "")
    elsewhere = plain.replace("127.0.0.1", "localhost").format("in/c/3.png")
    with store.open_output_stream("list.txt") as file:
        file.write("\n".join(["in/a-b.png", plain.format("in/a/1.png"), elsewhere]).encode())
    cells = [row["image"] for row in find_images(place.format("list.txt")).take(9)]
    for cell, name in zip(cells, ("a-b.png", "a/1.png"), strict=False):
        np.testing.assert_array_equal(to_rgb(cell), np.array(Image.open(scenes / name)))
    assert "sig=" not in cells[2]  # of another host


def test_an_output_is_that_of_a_local_run_and_can_be_replaced(
    place, store, scenes, names_in, small_dir, ray_session, tmp_path, run_command
):
    options = ["--model", small_dir, "--workers", "1", "--format", "png", "--overlay"]
    assert run_command("predict", scenes, tmp_path / "out", *options)[0] == 0
    assert run_command("predict", place.format("in"), place.format("out"), *options)[0] == 0
    files = {path.relative_to(tmp_path / "out").as_posix(): path for path in (tmp_path / "out").rglob("*.*g")}
    assert len(files) == 8 and {name for name in names_in("out") if name[-3:] in ("png", "jpg")} == files.keys()
    for name, path in files.items():
        with store.open_input_file(f"out/{name}") as file:
            assert file.read() == path.read_bytes()
    again = ["predict", place.format("in"), place.format("out"), *options, "--overwrite", "--exclude", "a*"]
    assert run_command(*again)[0] == 0
    left = [name for name in names_in("out") if name.startswith(("masks/", "overlays/"))]
    assert left == ["masks/c/3.png", "overlays/c/3.jpg"]


def test_what_an_interrupted_job_wrote_stays(place, names_in):
    with pytest.raises(KeyboardInterrupt), OutputFolder(place.format("left"), options={"input": "in"}) as folder:
        folder.begin({0: "wall"})
        folder.write_file("masks/part.parquet", b"rows")
        raise KeyboardInterrupt
    assert names_in("left") == ["classes.json", "job.json", "masks/part.parquet"]
    with OutputFolder(place.format("left"), options={"input": "in"}, resume=True) as folder:
        assert folder.resumes and json.loads(folder.storage.read("job.json"))["input"] == "in"


def test_what_an_upload_left_that_was_cut_off_is_no_file(place, store, names_in, monkeypatch):
    """An object of no bytes, which a process leaves on Azure that is killed between two requests of an upload."""
    monkeypatch.setattr(_lease, "_SECONDS_UNTIL_FREE", 0.0)  # nobody holds the empty leases, and nobody shall wait
    output = place.format("cut")
    store.open_output_stream("cut/lease.json").close()  # the first object of a job
    write_rows(output, ROWS)
    before = names_in("cut")
    store.delete_file("cut/summary.json")
    shard = next(name for name in before if name.startswith("masks/"))
    with store.open_output_stream("cut/job.json") as file:
        file.write(b'{"summary": "summary.json", "model": "a"}')
    for name in (shard, "masks/part-other.parquet", "summary.json", "lease.json"):
        store.open_output_stream(f"cut/{name}").close()
    write_rows(output, ROWS)
    assert names_in("cut") == before
    shards = [store.open_input_file(f"cut/{name}") for name in before if name.startswith("masks/")]
    rows = pa.concat_tables(map(pa.parquet.read_table, shards)).sort_by("index")
    assert rows["segmentation"].to_pylist() == [row["segmentation"] for row in ROWS]


def test_a_lease_that_its_holder_is_just_writing_is_not_free(place, store):
    """On Azure, it is an empty object for a moment at each beat."""
    with OutputFolder(place.format("held"), options={"input": "in"}) as folder:
        store.open_output_stream("held/lease.json").close()
        assert not folder.storage.create("lease.json", b"{}")


def test_a_name_node_that_is_away_for_a_moment_costs_nothing(place, scenes):
    """Others than HDFS answer by HTTP, as S3 does; see `tests/kills/test_object_store.py`."""
    if not place.startswith("hdfs:"):
        pytest.skip("has no name node")
    relay = Relay(int(place.split(":")[2].partition("/")[0]))
    uri = f"hdfs://127.0.0.1:{relay.port}/bucket/{{}}"
    with OutputFolder(uri.format("relayed"), options={"input": "in"}) as folder:
        relay.go_away(2)
        folder.begin({0: "wall"})
        relay.go_away(2)
        folder.write_file("masks/part.parquet", b"rows")
        relay.go_away(2)
        assert folder.storage.read("masks/part.parquet") == b"rows"
        relay.go_away(2)
        assert folder.storage.names("masks") == ["masks/part.parquet"]
        relay.go_away(2)
        folder.storage.delete(["masks/part.parquet"])
        assert folder.storage.names("masks") == []
        relay.go_away(2)
        image = to_rgb(uri.format(f"in/{IMAGES[0]}"))
        np.testing.assert_array_equal(image, np.array(Image.open(scenes / IMAGES[0])))
    assert relay.closed == 12


def test_an_error_tells_no_signature(place, run_command, tmp_path, small_dir):
    if "sig=" not in place:
        pytest.skip("there is no signature in the URI")
    denied = place.replace("sp=racwdl", "sp=rl")  # which is not what was signed
    for arguments in ((denied.format("in"), tmp_path / "out"), (place.format("in"), denied.format("new"))):
        code, printed, said = run_command("predict", *arguments, "--model", small_dir)
        assert code == 2 and "403" in said and "bucket/" in said
        assert "sig=" not in printed + said and signature()[:20] not in printed + said
