"""Describes the API as an OpenAPI 3.1 document, from the table of routes and the types they use."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from claudedo_worker.access import Kind
from claudedo_worker.api import shapes
from claudedo_worker.api.operations import JSON, OPERATIONS, STREAM, Operation, Parameter

if TYPE_CHECKING:
    from claudedo_worker.api.routes import Rule

Json = dict[str, Any]

ABOUT = """\
The same routes are served on a unix socket, where whoever can open it is the person, and on a \
loopback port, for a page with its cookie and for clients with a token of one workspace. \
`x-claudedo-who` of an operation lists who may ask: `person` (the socket), `page`, `session` (a \
process below one of our sessions, on the socket), `token`, `nobody` (without any credential). \
A request may say in `X-Claudedo-Protocol` what it speaks; another number is answered with 409. \
Events: see `docs/protocol.md`."""

_PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")
_SCHEMES = {Kind.PAGE: "page", Kind.TOKEN: "token"}


@cache
def document(rules: tuple[Rule, ...], version: str, cookie: str) -> Json:
    """The whole description. `cookie` is the name of the page's cookie.

    Raises `KeyError` for a route that `OPERATIONS` lacks.
    """
    schemas, components = _schemas(rules)
    paths: Json = {}
    for rule in rules:
        operation = _operation(rule, OPERATIONS[_key(rule)], schemas)
        paths.setdefault(_path(rule), {})[rule.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "claudedo", "version": version, "description": ABOUT},
        "paths": paths,
        "components": {
            "schemas": components,
            "responses": {"Problem": _problem(schemas)},
            "securitySchemes": _security_schemes(cookie),
        },
    }


# Schemas


def _schemas(rules: Iterable[Rule]) -> tuple[dict[str, Json], Json]:
    """The schema of every type by `_name`, and the components that they refer to."""
    types: dict[str, Any] = {
        _name(shapes.Problem): shapes.Problem,
        _name(shapes.Event): shapes.Event,
    }
    for rule in rules:
        operation = OPERATIONS[_key(rule)]
        used = [operation.gives, operation.takes, *(one.type for one in operation.parameters)]
        types |= {_name(one): one for one in used if one is not None}
    made, shared = TypeAdapter.json_schemas(
        [(name, "validation", TypeAdapter(one)) for name, one in types.items()],
        ref_template="#/components/schemas/{model}",
    )
    return {name: _plain(schema) for (name, _), schema in made.items()}, _plain(shared["$defs"])


def _name(type: Any) -> str:
    return f"{type.__module__}.{type.__qualname__}" if inspect.isclass(type) else repr(type)


def _plain(schema: Any) -> Any:
    """Without the titles, which only repeat the names."""
    if isinstance(schema, list):
        return [_plain(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: {name: _plain(one) for name, one in value.items()}
        if key == "properties"
        else _plain(value)
        for key, value in schema.items()
        if not (key == "title" and isinstance(value, str))
    }


# Operations


def _operation(rule: Rule, operation: Operation, schemas: dict[str, Json]) -> Json:
    summary, _, more = inspect.cleandoc(rule.handler.__doc__ or "").partition("\n")
    described: Json = {
        "operationId": _identity(rule),
        "summary": summary,
        "tags": [_tag(rule)],
        "parameters": [
            *_path_parameters(rule),
            *(_parameter(one, schemas) for one in operation.parameters),
        ],
        "responses": {
            str(operation.status): _answer(operation, schemas),
            "default": {"$ref": "#/components/responses/Problem"},
        },
        "security": list(_security(rule)),
        "x-claudedo-who": sorted(kind.value for kind in rule.who),
    }
    if more.strip():
        described["description"] = more.strip()
    if operation.takes is not None:
        content = {JSON: {"schema": schemas[_name(operation.takes)]}}
        described["requestBody"] = {"required": operation.needed, "content": content}
    elif operation.body != JSON:
        described["requestBody"] = {"required": True, "content": {operation.body: {}}}
    return described


def _key(rule: Rule) -> str:
    return f"{rule.method} {rule.path}"


def _path(rule: Rule) -> str:
    return _PARAMETER.sub(r"{\1}", rule.path)


def _identity(rule: Rule) -> str:
    words = re.findall(r"\w+", _path(rule).removeprefix("/api"))
    return "_".join([rule.method.lower(), *words])


def _tag(rule: Rule) -> str:
    words = re.findall(r"\w+", rule.path.removeprefix("/api"))
    return words[0] if rule.path.startswith(("/api/", "/mcp/")) else "page and health"


def _path_parameters(rule: Rule) -> Iterator[Json]:
    for name in _PARAMETER.findall(rule.path):
        about = "Its id or its name." if name == "workspace" else None
        yield {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string"},
            **({"description": about} if about else {}),
        }


def _parameter(one: Parameter, schemas: dict[str, Json]) -> Json:
    return {
        "name": one.name,
        "in": one.place,
        "required": one.required,
        "description": one.about,
        "schema": schemas[_name(one.type)],
    }


def _answer(operation: Operation, schemas: dict[str, Json]) -> Json:
    said = HTTPStatus(operation.status).phrase
    if operation.gives is not None:
        return {
            "description": said,
            "content": {operation.media: {"schema": schemas[_name(operation.gives)]}},
        }
    if operation.media == STREAM:
        about = "Server-sent events until either side hangs up."
        return {"description": about, "content": {STREAM: {"schema": {"type": "string"}}}}
    if operation.media != JSON:
        return {"description": said, "content": {operation.media: {}}}
    return {"description": said}


def _problem(schemas: dict[str, Json]) -> Json:
    return {
        "description": "Any 4xx or 5xx: what went wrong, and what to do.",
        "content": {"application/problem+json": {"schema": schemas[_name(shapes.Problem)]}},
    }


# Who


def _security(rule: Rule) -> Iterator[Json]:
    """One of these on the port; on the socket none is needed."""
    if Kind.NOBODY in rule.who or Kind.PERSON in rule.who:
        yield {}
    for kind, scheme in _SCHEMES.items():
        if kind in rule.who:
            yield {scheme: []}


def _security_schemes(cookie: str) -> Json:
    return {
        "page": {
            "type": "apiKey",
            "in": "cookie",
            "name": cookie,
            "description": "Got through the one-time link of `claudedo open`.",
        },
        "token": {
            "type": "http",
            "scheme": "bearer",
            "description": "Made by `claudedo token create`; `?token=` works, too.",
        },
    }
