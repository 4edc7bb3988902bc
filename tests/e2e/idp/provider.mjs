// A company's identity provider for the tests: npm's oidc-provider with two service clients.
//
// It listens on a free port of loopback and prints {"issuer": "..."} when it serves. A token request
// names the resource it wants a token for (RFC 8707) and gets a JWT access token (RFC 9068) for it.
import http from 'node:http';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const modules = process.env.SKEP_NODE_MODULES;
if (!modules) throw new Error('SKEP_NODE_MODULES names no folder');
const entry = createRequire(`${modules}/`).resolve('oidc-provider');
const { default: Provider } = await import(pathToFileURL(entry).href);

const GROUPS = { 'build-bot': ['eng'], 'release-bot': ['eng', 'admins'] };
const machine = (id) => ({
  client_id: id,
  client_secret: `${id}-secret`,
  grant_types: ['client_credentials'],
  response_types: [],
  redirect_uris: [],
});

const server = http.createServer();
await new Promise((ready) => server.listen(0, '127.0.0.1', ready));
const issuer = `http://127.0.0.1:${server.address().port}`;

const provider = new Provider(issuer, {
  clients: Object.keys(GROUPS).map(machine),
  scopes: ['openid', 'mcp'],
  ttl: { ClientCredentials: 600 },
  extraTokenClaims: (ctx, token) => ({ groups: GROUPS[token.clientId] ?? [] }),
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: (ctx, resource) => ({
        scope: 'mcp',
        audience: resource,
        accessTokenFormat: 'jwt',
        accessTokenTTL: 600,
        jwt: { sign: { alg: 'RS256' } },
      }),
    },
  },
});
server.on('request', provider.callback());
process.stdout.write(`${JSON.stringify({ issuer })}\n`);
