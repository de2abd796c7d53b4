"""An HTTP API for an app: `bananas api`, or mounted in an ASGI program: `from bananas.http import api`. See docs/http.md.

    values       the types that go over the wire
    problems     errors as RFC 9457 has them
    access       tokens, roles, loopback, pages of other sites
    limits       requests per client, seats
    routes       what a route is: one row of a table
    once         submits under an idempotency key
    jobs, operating, queues, workers, crons, events, overview      the rows and their handlers
    dashboard    the page for people, in the folder `web`
    bulk         acts with their progress, exports
    document     the OpenAPI document, made of the rows
    application  from a request to an answer
    serving      a server of its own, for the command line

This needs the extra `api`.
"""

from bananas.http.access import Role
from bananas.http.application import Api, api
from bananas.http.routes import Asked, Reply, Route

__all__ = ["Api", "Asked", "Reply", "Role", "Route", "api"]
