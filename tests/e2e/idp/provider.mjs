// A company's identity provider for the tests: npm's oidc-provider with a token exchange grant (RFC 8693).
//
// Arguments: [STATE_FOLDER [PORT]]. It listens on loopback and prints {"issuer": "..."} when it serves. What
// has to outlive the process (signing keys, secrets, the port) is kept in STATE_FOLDER, where it also leaves
// the private key of the client `skep-key` as client-key.pem. Without a folder everything is new each time.
//
// A token request names the resource that it wants a token for (RFC 8707, `resource`, or `audience` when it
// exchanges one) and gets a JWT access token (RFC 9068) for it. Tests talk to the paths below /test/.
import { createPublicKey, generateKeyPairSync } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';

const modules = process.env.SKEP_NODE_MODULES;
if (!modules) throw new Error('SKEP_NODE_MODULES names no folder');
const load = (name) => import(pathToFileURL(createRequire(`${modules}/`).resolve(name)).href);
const { default: Provider, errors } = await load('oidc-provider');
const { createLocalJWKSet, jwtVerify } = await load('jose');

const EXCHANGE = 'urn:ietf:params:oauth:grant-type:token-exchange';
const ACCESS_TOKEN = 'urn:ietf:params:oauth:token-type:access_token';
const SUBJECT_TYPES = [ACCESS_TOKEN, 'urn:ietf:params:oauth:token-type:jwt'];

// State that a restart must not lose.
const [folder, wantedPort] = process.argv.slice(2);
const stateFile = folder && join(folder, 'provider.json');
const jwk = (pair, more) => ({ ...pair.privateKey.export({ format: 'jwk' }), use: 'sig', ...more });
const state =
  stateFile && existsSync(stateFile)
    ? JSON.parse(readFileSync(stateFile, 'utf8'))
    : {
        keys: [jwk(generateKeyPairSync('rsa', { modulusLength: 2048 }), { kid: 'rs', alg: 'RS256' })],
        clientKey: generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey.export({ type: 'pkcs8', format: 'pem' }),
        secrets: {},
      };
const save = () => {
  if (stateFile) writeFileSync(stateFile, JSON.stringify(state), { mode: 0o600 });
};
if (folder) writeFileSync(join(folder, 'client-key.pem'), state.clientKey, { mode: 0o600 });

const server = http.createServer();
const port = Number(wantedPort ?? state.port ?? 0);
await new Promise((ready, failed) => server.once('error', failed).listen(port, '127.0.0.1', ready));
state.port = server.address().port;
const issuer = `http://127.0.0.1:${state.port}`;

// Clients. The secret of one is its id and `-secret`, until a test says otherwise.
const GROUPS = { 'build-bot': ['eng'], 'release-bot': ['eng', 'admins'] };
const client = (id, grants, more = {}) => ({
  client_id: id,
  client_secret: `${id}-secret`,
  grant_types: grants,
  response_types: [],
  redirect_uris: [],
  ...more,
});
const publicJwk = { ...createPublicKey(state.clientKey).export({ format: 'jwk' }), kid: 'client-key', use: 'sig' };
const clients = [
  ...Object.keys(GROUPS).map((id) => client(id, ['client_credentials'])),
  // Where people log in; the tests get their tokens below /test/.
  client('app', ['client_credentials']),
  // The proxy, once for each way in which it can prove itself.
  client('skep', [EXCHANGE, 'client_credentials']),
  client('skep-post', [EXCHANGE], { token_endpoint_auth_method: 'client_secret_post' }),
  client('skep-public', [EXCHANGE], { token_endpoint_auth_method: 'none', client_secret: undefined }),
  client('skep-key', [EXCHANGE, 'client_credentials'], {
    token_endpoint_auth_method: 'private_key_jwt',
    client_secret: undefined,
    jwks: { keys: [publicJwk] },
  }),
  // A client that may not exchange.
  client('skep-poor', ['client_credentials']),
];
for (const { client_id: id, client_secret: secret } of clients) {
  if (secret) state.secrets[id] ??= [secret];
}
save();

const resource = (audience, ttl = 600) => ({
  scope: 'mcp mcp:read',
  audience,
  accessTokenFormat: 'jwt',
  accessTokenTTL: ttl,
  jwt: { sign: { alg: 'RS256' } },
});
// Who acts in an exchanged token (RFC 8693 §4.1).
const actors = new WeakMap();

const provider = new Provider(issuer, {
  clients,
  jwks: { keys: state.keys },
  scopes: ['openid', 'mcp', 'mcp:read'],
  ttl: { ClientCredentials: 600, AccessToken: 600 },
  clientAuthMethods: ['client_secret_basic', 'client_secret_post', 'private_key_jwt', 'none'],
  extraTokenClaims: (ctx, token) =>
    actors.has(token) ? { act: { sub: actors.get(token) } } : { groups: GROUPS[token.clientId] ?? ['users'] },
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    introspection: { enabled: true },
    revocation: { enabled: true },
    resourceIndicators: { enabled: true, getResourceServerInfo: (ctx, audience) => resource(audience) },
  },
});
// While a secret is replaced, both may be good.
provider.Client.prototype.compareClientSecret = function compare(secret) {
  return (state.secrets[this.clientId] ?? []).includes(secret);
};

const accessToken = (accountId, of, audience, { scope = 'mcp', ttl, format = 'jwt' } = {}) =>
  new provider.AccessToken({
    accountId,
    client: of,
    scope,
    gty: 'test',
    expiresIn: ttl ?? 600,
    resourceServer: new provider.ResourceServer(audience, { ...resource(audience, ttl), accessTokenFormat: format }),
  });

// What happens to exchanges: as it should, or one of the ways in which they fail.
const FAULTS = {
  invalid_request: () => {
    throw new errors.InvalidRequest('the subject token is not accepted');
  },
  invalid_grant: () => {
    throw new errors.InvalidGrant('as the test wants it');
  },
  invalid_client: () => {
    throw new errors.InvalidClientAuth('as the test wants it');
  },
  unauthorized_client: () => {
    throw new errors.UnauthorizedClient();
  },
  unsupported_grant_type: () => {
    throw new errors.UnsupportedGrantType();
  },
  invalid_target: () => {
    throw new errors.InvalidTarget();
  },
  invalid_scope: () => {
    throw new errors.InvalidScope('as the test wants it', 'mcp');
  },
  error_500: () => {
    throw new Error('as the test wants it');
  },
  busy_429: (ctx) => {
    ctx.status = 429;
    ctx.set('Retry-After', '7');
    ctx.body = { error: 'slow_down' };
  },
  down_503: (ctx) => {
    ctx.status = 503;
    ctx.type = 'text/html';
    ctx.body = '<h1>maintenance</h1>';
  },
  redirect: (ctx) => {
    ctx.redirect('/elsewhere');
  },
  html: (ctx) => {
    ctx.type = 'text/html';
    ctx.body = '<h1>log in</h1>';
  },
  wrong_type: (ctx) => {
    ctx.body = { access_token: 'x', issued_token_type: ACCESS_TOKEN, token_type: 'N_A' };
  },
  cut: (ctx) => {
    ctx.respond = false;
    ctx.req.socket.destroy();
  },
  // Longer than the proxy waits.
  hang: async (ctx) => {
    await pause(30_000);
    ctx.body = {};
  },
};
let fault = null;
const counts = { asked: 0, issued: 0, service: 0 };
provider.on('grant.success', (ctx) => {
  if (ctx.oidc.params.grant_type === 'client_credentials') counts.service += 1;
});

const verify = createLocalJWKSet({ keys: state.keys.map(({ kty, kid, n, e, use, alg }) => ({ kty, kid, n, e, use, alg })) });
// The account that a subject token of ours speaks for.
async function subjectOf(token) {
  const opaque = await provider.AccessToken.find(token);
  if (opaque?.isValid) return opaque.accountId;
  const { payload } = await jwtVerify(token, verify, { issuer, typ: 'at+jwt' });
  return payload.sub;
}

provider.registerGrantType(
  EXCHANGE,
  async (ctx) => {
    counts.asked += 1;
    if (fault) return FAULTS[fault](ctx);
    const { params, client: asking } = ctx.oidc;
    if (!SUBJECT_TYPES.includes(params.subject_token_type)) throw new errors.InvalidRequest('subject_token_type');
    if ((params.requested_token_type ?? ACCESS_TOKEN) !== ACCESS_TOKEN) throw new errors.InvalidRequest('requested_token_type');
    let subject;
    try {
      subject = await subjectOf(params.subject_token);
    } catch {
      throw new errors.InvalidRequest('the subject token is not accepted');
    }
    const audience = params.audience ?? params.resource;
    if (!audience || audience === 'urn:nobody') throw new errors.InvalidTarget();
    const token = accessToken(subject, asking, audience, { scope: params.scope ?? 'mcp' });
    actors.set(token, asking.clientId);
    const value = await token.save();
    counts.issued += 1;
    ctx.body = {
      access_token: value,
      issued_token_type: ACCESS_TOKEN,
      token_type: 'Bearer',
      expires_in: token.expiration,
      scope: token.scope,
    };
  },
  ['audience', 'resource', 'scope', 'requested_token_type', 'subject_token', 'subject_token_type', 'actor_token', 'actor_token_type'],
);

// What tests ask for.
const TEST = {
  // How many exchanges were asked for, how many tokens came of them, how many clients got for themselves.
  '/test/exchanges': () => counts,
  // Tokens for people: ?user=NAME (or ?users=N for user-0, user-1, ...) &audience=...[&opaque][&ttl=S][&scope=S]
  '/test/tokens': async (query) => {
    const of = await provider.Client.find('app');
    const users = query.get('user') ?? Array.from({ length: Number(query.get('users')) }, (_, n) => `user-${n}`);
    const options = {
      format: query.has('opaque') ? 'opaque' : 'jwt',
      ttl: Number(query.get('ttl') ?? 600),
      scope: query.get('scope') ?? 'mcp',
    };
    const mint = (user) => accessToken(user, of, query.get('audience'), options).save();
    return { tokens: await Promise.all([users].flat().map(mint)) };
  },
  // ?fault=NAME: exchanges fail like this from now on; without a name they work again.
  '/test/fault': (query) => {
    const name = query.get('fault') || null;
    if (name && !FAULTS[name]) throw new Error(`there is no fault ${name}`);
    fault = name;
    return {};
  },
  // ?client=ID&secret=...&secret=...: these secrets are good from now on, and no others.
  '/test/secrets': (query) => {
    state.secrets[query.get('client')] = query.getAll('secret');
    save();
    return {};
  },
};

const oidc = provider.callback();
server.on('request', async (request, response) => {
  const url = new URL(request.url, issuer);
  const answer = TEST[url.pathname];
  if (!answer) return oidc(request, response);
  try {
    const body = JSON.stringify(await answer(url.searchParams));
    response.writeHead(200, { 'Content-Type': 'application/json' }).end(body);
  } catch (error) {
    response.writeHead(500).end(String(error));
  }
});
process.stdout.write(`${JSON.stringify({ issuer })}\n`);
