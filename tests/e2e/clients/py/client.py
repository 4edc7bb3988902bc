"""Drives one MCP server with the official Python SDK and prints what it saw as one line of JSON.

Arguments: URL TOKEN REFUSED_TOOL.
"""

import json
import sys

import anyio
import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client


def text(result):
    return "".join(getattr(part, "text", "") for part in result.content)


def root(error):
    """The first real error inside the groups that anyio wraps around it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def drive(client, refused_tool, seen):
    seen["server"] = client.server_info.name
    seen["protocol"] = client.protocol_version
    seen["tools"] = sorted(tool.name for tool in (await client.list_tools()).tools)
    seen["resources"] = sorted(str(item.uri) for item in (await client.list_resources()).resources)
    seen["prompts"] = sorted(item.name for item in (await client.list_prompts()).prompts)
    seen["echo"] = text(await client.call_tool("echo", {"message": "h\u00e9llo"}))

    seen["progress"] = []

    async def on_progress(progress, total, message):
        seen["progress"].append(progress)

    long = await client.call_tool(
        "trigger-long-running-operation",
        {"duration": 0.4, "steps": 4},
        progress_callback=on_progress,
    )
    seen["long"] = text(long)

    resource = await client.read_resource("demo://resource/dynamic/text/7")
    seen["resource"] = str(resource.contents[0].uri)
    prompt = await client.get_prompt("args-prompt", {"city": "Bern"})
    seen["prompt"] = prompt.messages[0].content.text

    try:
        await client.call_tool(refused_tool, {})
        seen["refused"] = None
    except Exception as error:
        cause = root(error)
        seen["refused"] = {"code": getattr(cause, "code", None), "message": str(cause)}
    seen["after"] = text(await client.call_tool("echo", {"message": "still here"}))


async def main():
    url, token, refused_tool = sys.argv[1:4]
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    seen = {}
    try:
        timeout = httpx2.Timeout(30, read=60)
        async with httpx2.AsyncClient(headers=headers, timeout=timeout) as http:
            async with Client(streamable_http_client(url, http_client=http)) as client:
                await drive(client, refused_tool, seen)
    except BaseException as error:
        cause = root(error)
        seen["error"] = {"code": getattr(cause, "code", None), "message": str(cause)}
    sys.stdout.write(json.dumps(seen) + "\n")


anyio.run(main)
