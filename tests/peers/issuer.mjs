// An OpenID Connect issuer (the certified `oidc-provider` of npm) for the tests: `node issuer.mjs PORT KEYS.json`.
//
// KEYS.json is `{"signing": "kid", "jwks": {"keys": [...]}}`, private keys, and is read anew on SIGHUP, so that a test can
// roll a key over while the issuer runs: the key set that is published, and the one that new tokens are signed with.
// Clients are `secret`, `top-secret`, `confidential` and `plain` (their own name is their secret): each gets, by the client
// credentials grant for the resource `mission-service-api`, an RS256 token with a claim `clearance_level`.
import { createRequire } from 'node:module';
import { createServer } from 'node:http';
import { readFileSync } from 'node:fs';

// Installed apart from this file; NODE_PATH says where.
const require = createRequire(`${process.env.NODE_PATH}/`);
const { Provider } = await import(require.resolve('oidc-provider'));

const [port, keysFile] = process.argv.slice(2);
const issuer = `http://127.0.0.1:${port}`;
const CLEARANCES = { secret: 'SECRET', 'top-secret': 'TOP_SECRET', confidential: 'CONFIDENTIAL', plain: undefined };

function provider() {
  const { jwks, signing } = JSON.parse(readFileSync(keysFile, 'utf8'));
  // It signs with the first key that fits.
  const keys = [...jwks.keys].sort((a, b) => (b.kid === signing) - (a.kid === signing));
  return new Provider(issuer, {
    jwks: { keys },
    clients: Object.keys(CLEARANCES).map((name) => ({
      client_id: name,
      client_secret: name,
      grant_types: ['client_credentials'],
      redirect_uris: [],
      response_types: [],
    })),
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => 'urn:mission-service-api',
        useGrantedResource: () => true,
        getResourceServerInfo: () => ({
          scope: 'readings:read readings:write',
          audience: 'mission-service-api',
          accessTokenTTL: 600,
          accessTokenFormat: 'jwt',
          jwt: { sign: { alg: 'RS256', kid: signing } },
        }),
      },
    },
    extraTokenClaims: (_, token) => ({ sub: token.clientId, clearance_level: CLEARANCES[token.clientId] }),
  });
}

let callback = provider().callback();
process.on('SIGHUP', () => {
  callback = provider().callback();
});
createServer((request, response) => callback(request, response)).listen(Number(port), '127.0.0.1', () => {
  console.log(`ready ${issuer}`);
});
