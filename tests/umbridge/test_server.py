"""A server of UM-Bridge: its answers, its errors, and the published client."""

from __future__ import annotations

import http.client
import json
import logging
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support.cases import close

import mfdeq

THETA = np.array([0.3, 0.7, 1.1])
SENS, VEC = 1.5, np.array([0.2, -1.0, 0.4])
OPERATIONS = ("Evaluate", "Gradient", "ApplyJacobian", "ApplyHessian")


def residual(h, theta):
    """N = 2 and P = 3; no equilibrium is found for a negative last parameter."""
    return np.stack(
        [h[0] ** 2 - theta[2] + 0.1 * h[1] * theta[0], h[1] + np.sin(h[0]) * theta[1] - theta[0]]
    )


def model_of_two_unknowns():
    return mfdeq.from_function(residual, 2, 3, "residual", initial_state=np.ones(2))


def functional_of_three_parameters():
    loss = mfdeq.LeastSquares(np.array([0, 1]), np.array([0.5, 0.2]))
    return mfdeq.ReducedFunctional(model_of_two_unknowns(), loss)


@pytest.fixture(scope="module")
def server():
    served = {"misfit": functional_of_three_parameters(), "state": model_of_two_unknowns()}
    with mfdeq.umbridge.serve(served, port=0) as server:
        yield server


def ask(server, path, fields=None, body=None, headers=()):
    """The status and the answer of a request."""
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=30)
    try:
        if fields is not None:
            body = json.dumps(fields)
        connection.request("GET" if body is None else "POST", path, body, dict(headers))
        answer = connection.getresponse()
        text = answer.read().decode()
        return answer.status, json.loads(text) if text else None
    finally:
        connection.close()


def request_for(operation, output_size, name="misfit", **changed):
    """A right request, at the parameters THETA, with some fields changed or left out."""
    fields = {"name": name, "input": [THETA.tolist()], "config": {}}
    if operation != "Evaluate":
        fields["outWrt"] = 0
    if operation in ("Gradient", "ApplyJacobian"):
        fields["inWrt"] = 0
    if operation == "ApplyHessian":
        fields |= {"inWrt1": 0, "inWrt2": 0}
    if operation in ("Gradient", "ApplyHessian"):
        fields["sens"] = [SENS] * output_size
    if operation in ("ApplyJacobian", "ApplyHessian"):
        fields["vec"] = VEC.tolist()
    return {key: x for key, x in (fields | changed).items() if x is not None}


# The protocol: what UM-Bridge's tests of conformity ask, and answers in its form.


def test_the_server_names_its_models_and_the_version_of_the_protocol(server):
    status, answer = ask(server, "/Info")
    assert (status, answer) == (200, {"protocolVersion": 1.0, "models": ["misfit", "state"]})


@pytest.mark.parametrize(("name", "sizes"), [("misfit", (3, 1)), ("state", (3, 2))])
def test_sizes_and_operations_are_those_of_the_model(server, name, sizes):
    for path, expected in (
        ("/InputSizes", {"inputSizes": [sizes[0]]}),
        ("/OutputSizes", {"outputSizes": [sizes[1]]}),
        ("/ModelInfo", {"support": dict.fromkeys(OPERATIONS, True)}),
    ):
        assert ask(server, path, {"name": name, "config": {}}) == (200, expected)
        assert ask(server, path, {"name": name}) == (200, expected)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(("name", "size"), [("misfit", 1), ("state", 2)])
def test_outputs_have_the_form_of_the_protocol(server, name, size, operation):
    status, answer = ask(server, f"/{operation}", request_for(operation, size, name))
    assert status == 200
    assert list(answer) == ["output"]
    output = answer["output"]
    if operation == "Evaluate":
        assert len(output) == 1
        (output,) = output
    # UM-Bridge's own test of conformity expects as many entries of ApplyHessian as there are
    # outputs, its servers and clients as many as there are inputs: a Hessian is applied to one.
    expected = 3 if operation in ("Gradient", "ApplyHessian") else size
    assert len(output) == expected
    assert all(isinstance(x, float) for x in output)


@pytest.mark.parametrize("operation", [*OPERATIONS, "ModelInfo", "InputSizes", "OutputSizes"])
@pytest.mark.parametrize("name", ["wrong", None, ["misfit"], 7])
def test_a_wrong_name_is_an_error_that_lists_the_models(server, operation, name):
    status, answer = ask(server, f"/{operation}", {"name": name} if name else {})
    assert status == 400
    assert set(answer) == {"error"}
    assert set(answer["error"]) == {"type", "message"}
    assert answer["error"]["type"] == "ModelNotFound"
    assert "misfit, state" in answer["error"]["message"]


WRONG_FIELDS = {
    "a longer input": {"input": [[*THETA, 0.0]]},
    "two inputs": {"input": [THETA.tolist()] * 2},
    "no input": {"input": None},
    "a flat input": {"input": THETA.tolist()},
    "strings": {"input": [["0.3", "0.7", "1.1"]]},
    "booleans": {"input": [[True, False, True]]},
    "an overflow": {"input": [[10**400, 1, 1]]},
    "options": {"config": {"level": 1}},
    "a wrong output": {"outWrt": 1},
    "a wrong input": {"inWrt": 1, "inWrt1": -1},
    "no index": {"outWrt": None},
    "a boolean for an index": {"outWrt": False},
    "a wrong sens": {"sens": [1.0, 1.0]},
    "a wrong vec": {"vec": [1.0]},
}
USED_BY = {
    "outWrt": OPERATIONS[1:],
    "inWrt": OPERATIONS[1:],
    "sens": ("Gradient", "ApplyHessian"),
    "vec": ("ApplyJacobian", "ApplyHessian"),
}


@pytest.mark.parametrize(
    ("operation", "wrong"),
    [
        (operation, wrong)
        for wrong, changed in WRONG_FIELDS.items()
        for operation in USED_BY.get(next(iter(changed)), OPERATIONS)
    ],
)
def test_a_wrong_field_is_invalid_input_that_names_it(server, operation, wrong):
    changed = WRONG_FIELDS[wrong]
    first = next(iter(changed))
    status, answer = ask(server, f"/{operation}", request_for(operation, 1, **changed))
    assert (status, answer["error"]["type"]) == (400, "InvalidInput")
    assert first in answer["error"]["message"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "expected JSON"),
        (b"{", "expected JSON"),
        (b"\xff\xfe\x00", "expected JSON"),
        (b"[" * 50000, "expected JSON"),
        (b'{"name": "misfit", "input": [[NaN, 0, 0]]}', "NaN is not a number"),
        (b'{"name": "misfit", "input": [[Infinity, 0, 0]]}', "Infinity is not a number"),
        (b"[1]", "expected an object"),
    ],
)
def test_what_is_no_json_object_is_invalid_input(server, body, words):
    status, answer = ask(server, "/Evaluate", body=body)
    assert (status, answer["error"]["type"]) == (400, "InvalidInput")
    assert words in answer["error"]["message"]


def test_numbers_beyond_the_doubles_are_refused(server):
    body = '{"name": "misfit", "input": [[1e999, 0, 0]]}'
    status, answer = ask(server, "/Evaluate", body=body)
    assert (status, answer["error"]["type"]) == (400, "InvalidInput")
    assert "finite" in answer["error"]["message"]


def test_long_requests_are_refused_unread(server):
    long = {"Content-Length": str(10**9)}
    status, answer = ask(server, "/Evaluate", body="{", headers=long.items())
    assert status == 413
    assert "at most" in answer["error"]["message"]
    for length in ("-1", "1e3", "٣"):
        with socket.create_connection(server.server_address, timeout=30) as connection:
            head = f"POST /Evaluate HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"
            connection.sendall(head.encode())
            assert connection.recv(100).startswith(b"HTTP/1.1 411")


def test_the_longest_right_request_is_read(server):
    """With each number on a line of its own, as clients may print them."""
    loss = mfdeq.LeastSquares(np.arange(2), np.zeros(2))
    model = mfdeq.from_function(lambda h, theta: h - theta[:2], 2, 3000, "residual")
    theta = np.full(3000, -1.2345678901234567e-300)
    with mfdeq.umbridge.serve(mfdeq.ReducedFunctional(model, loss), port=0) as other:
        fields = {"name": "functional", "input": [theta.tolist()], "vec": theta.tolist()}
        fields |= {"sens": [1.0], "outWrt": 0, "inWrt1": 0, "inWrt2": 0}
        status, answer = ask(other, "/ApplyHessian", body=json.dumps(fields, indent=12))
    assert status == 200
    assert len(answer["output"]) == 3000


def test_unknown_operations_are_errors(server):
    for path, body in (("/Elsewhere", None), ("/", None), ("/Elsewhere", b"{}"), ("/Info", b"{}")):
        status, answer = ask(server, path, body=body)
        assert (status, answer["error"]["type"]) == (404, "NotFound")


def test_a_connection_serves_several_requests(server):
    connection = http.client.HTTPConnection(*server.server_address, timeout=30)
    for _ in range(3):
        connection.request("POST", "/Evaluate", json.dumps(request_for("Evaluate", 1)))
        answer = connection.getresponse()
        assert answer.status == 200
        assert not answer.will_close
        answer.read()
    connection.close()


def test_a_client_of_http_1_0_may_read_until_the_connection_ends(server):
    body = json.dumps(request_for("Evaluate", 1))
    with socket.create_connection(server.server_address, timeout=10) as connection:
        head = f"POST /Evaluate HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall((head + body).encode())
        parts = list(iter(lambda: connection.recv(4096), b""))
    assert json.loads(b"".join(parts).partition(b"\r\n\r\n")[2])["output"]


# The hosts that requests may name.


def status_for(server, host, path="/Info"):
    return ask(server, path, headers={"Host": host}.items())


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.1:80", "localhost", "LocalHost.:4242", "[::1]:4242", "127.1.2.3"],
)
def test_requests_that_name_this_machine_are_served(server, host):
    assert status_for(server, host)[0] == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:4242", "localhost.evil.example", "10.0.0.1", "[2001:db8::1]"],
)
def test_requests_that_name_another_host_are_refused_in_words(server, host):
    status, answer = status_for(server, host)
    assert (status, answer["error"]["type"]) == (403, "Forbidden")
    for words in ("127.0.0.1, localhost", host.removesuffix(":4242").strip("[]"), "allowed_hosts="):
        assert words in answer["error"]["message"]
    assert status_for(server, host, "/Elsewhere")[0] == 403


def test_nothing_is_computed_for_another_host():
    functional = functional_of_three_parameters()
    with mfdeq.umbridge.serve(functional, port=0) as server:
        request = request_for("Evaluate", 1, "functional")
        for method in ("POST", "HEAD"):
            connection = http.client.HTTPConnection(*server.server_address, timeout=30)
            connection.request(method, "/Evaluate", json.dumps(request), {"Host": "evil.example"})
            answer = connection.getresponse()
            assert (answer.status, answer.will_close) == (403, True)
            connection.close()
    assert functional.solves == 0


@pytest.mark.parametrize("hosts", ["", "Host: localhost\r\nHost: localhost\r\n", "Host: a b\r\n"])
def test_a_request_of_http_1_1_names_one_host(server, hosts):
    with socket.create_connection(server.server_address, timeout=30) as connection:
        connection.sendall(f"GET /Info HTTP/1.1\r\n{hosts}\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"one Host header" in answer


def test_names_that_the_user_passes_are_served():
    served, names = model_of_two_unknowns(), ("Solver.Example.org", "2001:DB8:0::1")
    with mfdeq.umbridge.serve(served, port=0, allowed_hosts=names) as server:
        for host in ("solver.example.org", "SOLVER.example.org.:80", "[2001:db8::1]", "localhost"):
            assert status_for(server, host)[0] == 200
        assert status_for(server, "example.org")[0] == 403
    with mfdeq.umbridge.serve(served, port=0, host="localhost", allowed_hosts="a.b") as server:
        assert ask(server, "/Info")[0] == status_for(server, "a.b")[0] == 200


def test_a_server_at_all_addresses_serves_the_one_that_a_connection_reaches():
    with mfdeq.umbridge.serve(model_of_two_unknowns(), port=0, host="0.0.0.0") as server:
        connection = http.client.HTTPConnection("127.0.0.2", server.server_address[1], timeout=30)
        for host, status in (("127.0.0.2", 200), ("192.0.2.1", 403)):
            connection.request("GET", "/Info", headers={"Host": host})
            answer = connection.getresponse()
            answer.read()
            assert answer.status == status
        connection.close()
        assert ask(server, "/Info")[0] == 200


def has_ipv6():
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no address of IPv6")
@pytest.mark.parametrize("host", ["::1", "::"])
def test_a_server_listens_at_an_address_of_ipv6(host):
    with mfdeq.umbridge.serve(model_of_two_unknowns(), port=0, host=host) as server:
        port = server.server_address[1]
        assert server.url == f"http://[{host}]:{port}"
        for url in (server.url, f"http://[::1]:{port}"):
            with urllib.request.urlopen(f"{url}/Info", timeout=30) as answer:
                assert json.load(answer)["models"] == ["state"]
        status, answer = status_for(server, "evil.example")
        assert status == 403
        assert "::1, localhost" in answer["error"]["message"]


# What is computed.


def outputs_of(server, name, size):
    return {
        operation: np.array(
            ask(server, f"/{operation}", request_for(operation, size, name))[1]["output"]
        )
        for operation in OPERATIONS
    }


def test_a_functional_is_served_with_its_gradient_and_hessian(server):
    functional = functional_of_three_parameters()
    g, H = functional.gradient(THETA), functional.hessian(THETA)
    found = outputs_of(server, "misfit", 1)
    close(found["Evaluate"], [[functional.value(THETA)]], 1e-12)
    close(found["Gradient"], SENS * g, 1e-10)
    close(found["ApplyJacobian"], [g @ VEC], 1e-10)
    close(found["ApplyHessian"], SENS * (H @ VEC), 1e-8)


def test_a_model_is_served_with_its_sensitivity_and_second_derivatives(server):
    eq = mfdeq.solve(model_of_two_unknowns(), THETA)
    y = np.full(2, SENS)
    found = outputs_of(server, "state", 2)
    close(found["Evaluate"], eq.state[None], 1e-12)
    close(found["Gradient"], eq.sensitivity.H @ y, 1e-10)
    close(found["ApplyJacobian"], eq.sensitivity @ VEC, 1e-10)
    close(found["ApplyHessian"], eq.component_hessian(y) @ VEC, 1e-8)


def test_one_equilibrium_serves_all_requests_at_the_same_parameters():
    functional = functional_of_three_parameters()
    with mfdeq.umbridge.serve(functional, port=0) as server:
        for operation in 2 * OPERATIONS:
            request = request_for(operation, 1, "functional")
            assert ask(server, f"/{operation}", request)[0] == 200
    assert functional.solves == 1


def test_many_clients_at_once_get_their_own_answers():
    functional = functional_of_three_parameters()
    points = [THETA + 0.01 * i for i in range(8)]
    with mfdeq.umbridge.serve(functional, port=0) as server, ThreadPoolExecutor(8) as pool:

        def gradient(theta):
            request = request_for("Gradient", 1, "functional", input=[theta.tolist()])
            return np.array(ask(server, "/Gradient", request)[1]["output"])

        found = list(pool.map(gradient, points))
    for theta, g in zip(points, found, strict=True):
        close(g, SENS * functional.gradient(theta), 1e-8)


def test_a_point_without_an_equilibrium_is_a_typed_error_and_the_server_goes_on(server):
    request = request_for("Evaluate", 1, input=[[0.0, 0.0, -1.0]])
    status, answer = ask(server, "/Evaluate", request)
    assert (status, answer["error"]["type"]) == (500, "ConvergenceError")
    assert "newton" in answer["error"]["message"].lower()
    assert ask(server, "/Evaluate", request_for("Evaluate", 1))[0] == 200


def test_a_mistake_in_the_model_is_an_error_without_its_source(caplog):
    def broken(h, theta):
        return undefined + h  # noqa: F821

    model = mfdeq.from_function(broken, 2, 3, "residual")
    with (
        caplog.at_level(logging.DEBUG, "mfdeq.umbridge"),
        mfdeq.umbridge.serve(model, port=0) as server,
    ):
        status, answer = ask(server, "/Evaluate", request_for("Evaluate", 2, "state"))
    assert (status, answer["error"]["type"]) == (500, "NameError")
    assert "Traceback" not in answer["error"]["message"]
    assert any(record.exc_info for record in caplog.records)


def test_an_output_that_overflows_is_invalid():
    loss = mfdeq.LeastSquares(np.array([0]), np.array([9.0]), weights=1e3)
    functional = mfdeq.ReducedFunctional(model_of_two_unknowns(), loss)
    with mfdeq.umbridge.serve(functional, port=0) as server:
        request = request_for("Gradient", 1, "functional", sens=[1e308])
        status, answer = ask(server, "/Gradient", request)
    assert (status, answer["error"]["type"]) == (500, "InvalidOutput")


def test_a_broken_connection_is_logged_and_no_more(server, caplog, capfd):
    reset = struct.pack("ii", 1, 0)  # closing the socket breaks the connection at once
    with caplog.at_level(logging.DEBUG, "mfdeq.umbridge"):
        for _ in range(3):
            with socket.create_connection(server.server_address, timeout=30) as connection:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
                connection.sendall(
                    b"POST /Evaluate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{"
                )
        assert ask(server, "/Evaluate", request_for("Evaluate", 1))[0] == 200
        deadline = time.monotonic() + 30.0
        while "broke" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.01)
    assert "broke" in caplog.text
    assert capfd.readouterr().err == ""


# The life of a server.


def test_a_server_listens_on_this_machine_alone_and_frees_its_port():
    with mfdeq.umbridge.serve(functional_of_three_parameters(), port=0) as server:
        host, port = server.server_address
        assert host == "127.0.0.1"
        assert server.url == f"http://127.0.0.1:{port}"
        with pytest.raises(OSError, match="in use"):
            mfdeq.umbridge.serve(functional_of_three_parameters(), port=port)
    server.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, port), timeout=5)
    with mfdeq.umbridge.serve(functional_of_three_parameters(), port=port) as again:
        assert ask(again, "/Info")[0] == 200


def test_wait_returns_when_another_thread_closes_the_server():
    server = mfdeq.umbridge.serve(functional_of_three_parameters(), port=0)
    timer = threading.Timer(0.1, server.close)
    timer.start()
    server.wait()
    timer.join()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(server.server_address, timeout=5)


SERVING = """
import signal
import mfdeq

signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background ignores
model = mfdeq.from_function(lambda h, theta: h - theta, 1, 1, "residual")
server = mfdeq.umbridge.serve(model, port=0)
print(server.url, flush=True)
server.wait()
print("closed", flush=True)
"""


def test_an_interrupt_ends_a_program_that_waits():
    command = [sys.executable, "-c", SERVING]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        try:
            url = program.stdout.readline().strip()
            with urllib.request.urlopen(f"{url}/Info", timeout=30) as answer:
                assert json.load(answer)["models"] == ["state"]
            program.send_signal(signal.SIGINT)
            assert program.communicate(timeout=30)[0] == "closed\n"
        finally:
            program.kill()
    assert program.returncode == 0


def test_wrong_arguments_are_refused():
    for wrong in (residual, {}, {"f": residual}, {1: functional_of_three_parameters()}):
        with pytest.raises(mfdeq.ArgumentError, match=r"mfdeq\.umbridge\.serve"):
            mfdeq.umbridge.serve(wrong, port=0)
    for served in (model_of_two_unknowns(), functional_of_three_parameters()):
        with pytest.raises(mfdeq.ArgumentError, match="tolerance"):
            mfdeq.umbridge.serve(served, port=0, tolerance=1e-3)
    for port in ("4242", -1, 65536, 80.0, True, None):
        with pytest.raises(mfdeq.ArgumentError, match=r"port of .*: expected an integer"):
            mfdeq.umbridge.serve(model_of_two_unknowns(), port=port)
    with pytest.raises(mfdeq.ArgumentError, match=r"host of .*: expected the name or the address"):
        mfdeq.umbridge.serve(model_of_two_unknowns(), port=0, host=127)
    for name in ("http://a", "a:80", "[::1]:80", "*", "", "a b", 1, None):
        for names in ([name], name):
            with pytest.raises(mfdeq.ArgumentError, match=r"allowed_hosts of .*: expected names"):
                mfdeq.umbridge.serve(model_of_two_unknowns(), port=0, allowed_hosts=names)


def test_options_are_those_of_the_models_beside_functionals():
    served = {"misfit": functional_of_three_parameters(), "state": model_of_two_unknowns()}
    with mfdeq.umbridge.serve(served, port=0, max_iterations=1) as server:
        status, answer = ask(server, "/Evaluate", request_for("Evaluate", 2, "state"))
        assert (status, answer["error"]["type"]) == (500, "ConvergenceError")
        assert ask(server, "/Evaluate", request_for("Evaluate", 1))[0] == 200


# The client that UM-Bridge publishes.


def test_the_published_client_evaluates_and_differentiates(server):
    umbridge = pytest.importorskip("umbridge.um", reason="umbridge is not installed")
    functional = functional_of_three_parameters()
    assert umbridge.supported_models(server.url) == ["misfit", "state"]
    model = umbridge.HTTPModel(server.url, "misfit")
    assert (model.get_input_sizes(), model.get_output_sizes()) == ([3], [1])
    assert model.supports_evaluate()
    assert model.supports_gradient()
    assert model.supports_apply_jacobian()
    assert model.supports_apply_hessian()
    theta, g = [THETA.tolist()], functional.gradient(THETA)
    close(model(theta), [[functional.value(THETA)]], 1e-12)
    close(model.gradient(0, 0, theta, [SENS]), SENS * g, 1e-10)
    close(model.apply_jacobian(0, 0, theta, VEC.tolist()), [g @ VEC], 1e-10)
    product = model.apply_hessian(0, 0, 0, theta, [SENS], VEC.tolist())
    close(product, SENS * (functional.hessian(THETA) @ VEC), 1e-8)
    with pytest.raises(Exception, match="ConvergenceError"):
        model([[0.0, 0.0, -1.0]])
    with pytest.raises(Exception, match="InvalidInput: input"):
        model([[0.0, 1.0]])


def test_the_published_client_falls_back_from_shared_memory(server, capsys):
    umbridge = pytest.importorskip("umbridge.um", reason="umbridge is not installed")
    model = umbridge.HTTPModel(server.url, "state", use_shmem=True)
    assert not model.supports_shmem()
    assert "HTTP" in capsys.readouterr().out
    close(model([THETA.tolist()])[0], mfdeq.solve(model_of_two_unknowns(), THETA).state, 1e-12)
