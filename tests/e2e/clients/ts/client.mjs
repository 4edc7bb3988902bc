// Drives one MCP server with the official TypeScript SDK and prints what it saw as one line of JSON.
//
// Arguments: URL TOKEN REFUSED_TOOL. The SDK is taken from the folder that SKEP_NODE_MODULES names.
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const modules = process.env.SKEP_NODE_MODULES;
if (!modules) throw new Error('SKEP_NODE_MODULES names no folder');
const require = createRequire(`${modules}/`);
const load = (name) => import(pathToFileURL(require.resolve(name)).href);

const { Client } = await load('@modelcontextprotocol/sdk/client/index.js');
const { CreateMessageRequestSchema } = await load('@modelcontextprotocol/sdk/types.js');
const { StreamableHTTPClientTransport } = await load('@modelcontextprotocol/sdk/client/streamableHttp.js');

const [url, token, refusedTool] = process.argv.slice(2);
const transport = new StreamableHTTPClientTransport(new URL(url), {
  requestInit: { headers: token ? { Authorization: `Bearer ${token}` } : {} },
});
const client = new Client({ name: 'skep-e2e-ts', version: '1.0.0' }, { capabilities: { sampling: {} } });
// The server asks for a completion in the middle of one of the calls.
client.setRequestHandler(CreateMessageRequestSchema, async () => ({
  model: 'none',
  role: 'assistant',
  content: { type: 'text', text: 'sampled by the client' },
}));
const text = (result) => result.content.map((part) => part.text ?? '').join('');

const seen = {};
try {
  await client.connect(transport);
  seen.server = client.getServerVersion().name;
  seen.session = typeof transport.sessionId === 'string';
  seen.tools = (await client.listTools()).tools.map((tool) => tool.name).sort();
  seen.resources = (await client.listResources()).resources.map((resource) => resource.uri).sort();
  seen.prompts = (await client.listPrompts()).prompts.map((prompt) => prompt.name).sort();
  seen.echo = text(await client.callTool({ name: 'echo', arguments: { message: 'h\u00e9llo' } }));

  seen.progress = [];
  seen.long = text(
    await client.callTool(
      { name: 'trigger-long-running-operation', arguments: { duration: 0.4, steps: 4 } },
      undefined,
      { onprogress: (update) => seen.progress.push(update.progress) },
    ),
  );

  seen.sampled = text(
    await client.callTool({ name: 'trigger-sampling-request', arguments: { prompt: 'p', maxTokens: 5 } }),
  );

  const resource = await client.readResource({ uri: 'demo://resource/dynamic/text/7' });
  seen.resource = resource.contents[0].uri;
  const prompt = await client.getPrompt({ name: 'args-prompt', arguments: { city: 'Bern' } });
  seen.prompt = prompt.messages[0].content.text;

  try {
    await client.callTool({ name: refusedTool, arguments: {} });
    seen.refused = null;
  } catch (error) {
    seen.refused = { code: error.code, message: error.message };
  }
  seen.after = text(await client.callTool({ name: 'echo', arguments: { message: 'still here' } }));

  await transport.terminateSession();
  await client.close();
} catch (error) {
  seen.error = { code: error.code, message: String(error.message ?? error) };
}
process.stdout.write(`${JSON.stringify(seen)}\n`);
