"""Which resource, action and id a request is about; and what is read in no way at all."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.core.errors import Invalid
from troth.policy.http_routes import HttpRoutes, normalise_host, normalise_path
from troth.policy.resource import Binding, HttpRoute, Resource, TokenFormat, TokenTerms

TERMS = TokenTerms(TokenFormat.JWT, "ES256", timedelta(minutes=5), Binding.NONE)


def api(name: str, *routes: HttpRoute, hosts: tuple[str, ...] = ()) -> Resource:
    actions = {route.action: "Do it" for route in routes}
    return Resource(
        name, {}, "o@example.org", "", (), (), actions, (), TERMS, hosts=hosts, routes=routes
    )


ORDERS = api(
    "orders",
    HttpRoute("list", "/orders", ("GET",)),
    HttpRoute("read", "/orders/{id}", ("GET",)),
    HttpRoute("export", "/orders/export", ("GET",)),
    HttpRoute("write", "/orders/{id}/lines/*", ("PUT", "POST")),
    HttpRoute("admin", "/orders/admin/**"),
    hosts=("shop.example.org",),
)
REST = api("rest", HttpRoute("other", "/**"), hosts=("shop.example.org",))
ANYWHERE = api("health", HttpRoute("look", "/healthz", ("GET",)), HttpRoute("root", "/"))
ROUTES = HttpRoutes((ORDERS, ANYWHERE))


def find(method: str, path: str, host: str = "shop.example.org", routes: HttpRoutes = ROUTES):
    found = routes.find(method, host, path)
    return found.resource.name, found.action, found.id


@pytest.mark.parametrize(
    ("method", "path", "wanted"),
    [
        ("GET", "/orders", ("orders", "list", "")),
        ("HEAD", "/orders", ("orders", "list", "")),
        ("GET", "/orders?limit=../..//", ("orders", "list", "")),
        ("GET", "/orders/7", ("orders", "read", "7")),
        ("GET", "/orders/%37", ("orders", "read", "7")),
        ("GET", "/orders/a.b", ("orders", "read", "a.b")),
        ("GET", "/orders/%c3%a4", ("orders", "read", "%C3%A4")),
        ("GET", "/orders/export", ("orders", "read", "export")),  # the first that fits
        ("PUT", "/orders/7/lines/1", ("orders", "write", "7")),
        ("PURGE", "/orders/admin/x/y", ("orders", "admin", "")),
        ("GET", "/orders/admin/", ("orders", "admin", "")),
        ("GET", "/healthz", ("health", "look", "")),
        ("GET", "/", ("health", "root", "")),
    ],
)
def test_what_a_request_is_about(method: str, path: str, wanted: tuple[str, str, str]) -> None:
    assert find(method, path) == wanted
    assert find(method, path, "SHOP.example.org:8443") == wanted


@pytest.mark.parametrize(
    ("method", "path", "host"),
    [
        ("GET", "/orders/", "shop.example.org"),
        ("GET", "/Orders", "shop.example.org"),
        ("GET", "/orders/7/lines/1", "shop.example.org"),
        ("DELETE", "/orders", "shop.example.org"),
        ("get", "/orders", "shop.example.org"),
        ("GET ", "/orders", "shop.example.org"),
        ("GET", "/orders", "other.example.org"),
        ("GET", "/orders", "shop.example.org."),
        ("GET", "/orders", "shop.example.org:"),
        ("GET", "/orders", "shop.example.org:8443:8443"),
        ("GET", "/orders", ""),
        ("GET", "/orders", "ſhop.example.org"),
        ("GET", "/orders", "shop.example.org\0"),
    ],
)
def test_what_fits_nothing_is_refused(method: str, path: str, host: str) -> None:
    with pytest.raises(Invalid):
        ROUTES.find(method, host, path)


@pytest.mark.parametrize(
    "path",
    [
        "", "orders", "*", "http://shop.example.org/orders", "//orders", "/orders//7", "/./orders",
        "/x/../orders", "/orders/..", "/orders/.", "/orders/...", "/orders.", "/orders./7",
        "/x/%2e%2e/orders", "/x/%2E./orders", "/orders%2f7", "/orders%5c7", "/orders\\7",
        "/orders/%00", "/orders/%0a", "/orders/%7f", "/orders/7\0", "/orders/ä", "/orders/7 ",
        "/orders/%", "/orders/%2", "/orders/%zz", "/orders/%252e%252e/x", "/x/..;/orders",
        "/orders/;a=b/7", "/x/..;a=b/orders", "/x/%2e%2e;/orders", "/orders/7#x", "/orders/7#",
        "/orders/%c0%ae%c0%ae/x", "/orders/%ff", "/orders/[7]", '/orders/"7"', "/" + "a" * 5_000,
        "/" + "a/" * 80, "/orders/7%2e",
    ],
)  # fmt: skip
def test_paths_that_could_be_read_in_several_ways(path: str) -> None:
    """They don't even get to a route that takes everything."""
    with pytest.raises(Invalid):
        HttpRoutes((REST,)).find("GET", "shop.example.org", path)


def test_the_resource_that_says_most_is_meant() -> None:
    routes = HttpRoutes((REST, ORDERS, ANYWHERE))
    assert find("GET", "/orders/7", routes=routes) == ("orders", "read", "7")
    assert find("DELETE", "/orders/7", routes=routes) == ("rest", "other", "")
    # A named host says more than any path.
    assert find("GET", "/healthz", routes=routes) == ("rest", "other", "")
    assert find("GET", "/healthz", "elsewhere", routes=routes) == ("health", "look", "")


def test_a_request_that_two_resources_claim_is_about_neither() -> None:
    twice = HttpRoutes((api("a", HttpRoute("x", "/a/*")), api("b", HttpRoute("x", "/a/{id}"))))
    with pytest.raises(Invalid, match="a and b both claim"):
        twice.find("GET", "h", "/a/1")


def test_a_host_with_a_port_says_which_port() -> None:
    routes = HttpRoutes((api("a", HttpRoute("x", "/"), hosts=("h:81",)),))
    assert find("GET", "/", "h:81", routes) == ("a", "x", "")
    for host in ("h", "h:80", "h:8"):
        with pytest.raises(Invalid):
            routes.find("GET", host, "/")


def test_addresses_are_hosts() -> None:
    assert normalise_host("[2001:DB8::1]:443") == "[2001:db8::1]:443"
    assert normalise_host("127.0.0.1") == "127.0.0.1"


@given(st.text(alphabet="/.%2eEfF5cC0a;A\\~?#", max_size=30))
def test_a_normalised_path_stays_as_it_is_and_holds_no_trick(text: str) -> None:
    try:
        path = normalise_path(f"/{text}")
    except Invalid:
        return
    assert normalise_path(path) == path
    assert "//" not in path
    assert not {".", ".."} & set(path.split("/"))
    assert "%2F" not in path
    assert "%2E" not in path


def test_ten_thousand_routes_cost_no_more_than_ten() -> None:
    def measure(count: int) -> float:
        routes = HttpRoutes(
            api(f"r{n}", HttpRoute("read", f"/api/v1/r{n}/{{id}}"), hosts=("h",))
            for n in range(count)
        )
        best = float("inf")
        for _ in range(20):
            start = time.perf_counter()
            for _ in range(50):
                routes.find("GET", "h", "/api/v1/r7/1")
            best = min(best, time.perf_counter() - start)
        return best

    assert measure(10_000) < 5 * measure(10)
