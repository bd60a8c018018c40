"""The Python SDK as a client that acts for itself: machine_client.py URL '{"id": …, "secret": …}' (or "key": FILE)."""

import asyncio
import json
import sys
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
from mcp import Client
from mcp.client.auth.extensions.client_credentials import ClientCredentialsOAuthProvider, PrivateKeyJWTOAuthProvider, SignedJWTParameters
from mcp.client.streamable_http import streamable_http_client

URL, WHO = sys.argv[1], json.loads(sys.argv[2])


class Storage:
    tokens = information = None

    async def get_tokens(self):
        return self.tokens

    async def set_tokens(self, tokens):
        self.tokens = tokens

    async def get_client_info(self):
        return self.information

    async def set_client_info(self, information):
        self.information = information


def provider():
    parts = urlsplit(URL)
    common = {"server_url": URL, "storage": Storage(), "client_id": WHO["id"], "issuer": f"{parts.scheme}://{parts.netloc}"}
    if "secret" in WHO:
        return ClientCredentialsOAuthProvider(client_secret=WHO["secret"], **common)
    signed = SignedJWTParameters(issuer=WHO["id"], subject=WHO["id"], signing_key=Path(WHO["key"]).read_text(), signing_algorithm="ES256")
    return PrivateKeyJWTOAuthProvider(assertion_provider=signed.create_assertion_provider(), **common)


async def main():
    async with httpx2.AsyncClient(auth=provider(), follow_redirects=True, timeout=30) as http_client:
        async with Client(streamable_http_client(URL, http_client=http_client)) as client:
            assert "echo" in [tool.name for tool in (await client.list_tools()).tools]
            print((await client.call_tool("echo", {"text": "hello"})).content[0].text)


asyncio.run(asyncio.wait_for(main(), 60))
