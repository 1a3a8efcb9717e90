// A registry of our own on loopback, and an environment whose npm and pnpm can reach no other. Three walls, each enough:
// nothing of the caller's npm settings is inherited, every registry setting names the loopback one and is read back
// before anything is published, and all traffic that is not for loopback goes to a proxy that does not exist.

import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import type { Server } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { promisify } from "node:util";
import { runServer } from "verdaccio";

const run = promisify(execFile);

export type Environment = Readonly<Record<string, string>>;

export interface LoopbackRegistry {
  /** Ends in a slash, as npm writes it. */
  readonly url: string;
  close(): Promise<void>;
}

/** Verdaccio with its storage under `folder`, open to all, with no uplink: what was not published here is not here. */
export async function startRegistry(folder: string): Promise<LoopbackRegistry> {
  mkdirSync(folder, { recursive: true });
  const config = join(folder, "verdaccio.yaml");
  writeFileSync(
    config,
    `storage: ${JSON.stringify(join(folder, "storage"))}
uplinks: {}
packages:
  "**": { access: $all, publish: $all }
max_body_size: 200mb
log: { type: stdout, level: fatal }
`,
  );
  const server = (await runServer(config)) as Server;
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${port}/`,
    close: () =>
      new Promise((resolve) => {
        server.closeAllConnections();
        server.close(() => resolve());
      }),
  };
}

/** @throws unless a setting names exactly this loopback registry */
export function assertLoopback(setting: string, registry: string): void {
  const { protocol, hostname } = new URL(registry);
  if (protocol !== "http:" || hostname !== "127.0.0.1") throw new Error(`${registry} is not a loopback registry`);
  if (setting.trim().replace(/\/*$/, "/") !== registry) {
    throw new Error(`a registry other than ${registry} would be used: "${setting.trim()}". Nothing was published.`);
  }
}

/** npm's settings for a folder or a user: every route leads to the registry. */
export function npmrc(registry: string): string {
  // npm wants a token to publish, this registry looks at none.
  return `registry=${registry}\n@fa:registry=${registry}\n${registry.slice("http:".length)}:_authToken=loopback\naudit=false\nfund=false\nupdate-notifier=false\n`;
}

/** The environment for children: `home` is theirs alone and gets the user settings. */
export function childEnvironment(inherited: NodeJS.ProcessEnv, home: string, registry: string): Environment {
  const kept = Object.entries(inherited).filter(
    (entry): entry is [string, string] =>
      entry[1] !== undefined && !/^(npm|pnpm|yarn|corepack|xdg)_|_proxy$|^NODE_(ENV|OPTIONS)$|^CI$/i.test(entry[0]),
  );
  mkdirSync(home, { recursive: true });
  const userconfig = join(home, ".npmrc");
  const globalconfig = join(home, "global.npmrc");
  writeFileSync(userconfig, npmrc(registry));
  writeFileSync(globalconfig, "");
  const nowhere = "http://127.0.0.1:9/";
  return {
    ...Object.fromEntries(kept),
    HOME: home,
    USERPROFILE: home,
    npm_config_userconfig: userconfig,
    npm_config_globalconfig: globalconfig,
    npm_config_cache: join(home, "npm-cache"),
    HTTP_PROXY: nowhere,
    HTTPS_PROXY: nowhere,
    http_proxy: nowhere,
    https_proxy: nowhere,
    NO_PROXY: "127.0.0.1",
    no_proxy: "127.0.0.1",
  };
}

/**
 * Asks npm and pnpm which registry they would use in a folder, and reads what its packages ask for themselves.
 * @throws when any answer is another than `registry`
 */
export async function guard(
  folder: string,
  env: Environment,
  registry: string,
  manifests: readonly { publishConfig?: unknown }[],
): Promise<void> {
  for (const { publishConfig = {} } of manifests) {
    for (const [key, value] of Object.entries(publishConfig as object)) {
      if (/registry/i.test(key)) assertLoopback(String(value), registry);
    }
  }
  const questions = ["npm", "pnpm"].flatMap((tool) => ["registry", "@fa:registry"].map((key) => [tool, key] as const));
  const answers = await Promise.all(
    questions.map(([tool, key]) => run(tool, ["config", "get", key], { cwd: folder, env })),
  );
  for (const { stdout } of answers) assertLoopback(stdout, registry);
}

/** Publishes a tarball by the registry's own protocol. Unlike `npm publish` it takes no address from the package. */
export async function putTarball(
  registry: string,
  manifest: { name: string; version: string },
  tarball: Buffer,
): Promise<void> {
  assertLoopback(registry, registry);
  const { name, version } = manifest;
  const file = `${name}-${version}.tgz`;
  const dist = {
    tarball: new URL(`${name}/-/${file}`, registry).href,
    integrity: `sha512-${createHash("sha512").update(tarball).digest("base64")}`,
    shasum: createHash("sha1").update(tarball).digest("hex"),
  };
  const body = {
    _id: name,
    name,
    "dist-tags": { latest: version },
    versions: { [version]: { ...manifest, _id: `${name}@${version}`, dist } },
    _attachments: {
      [file]: { content_type: "application/octet-stream", data: tarball.toString("base64"), length: tarball.length },
    },
  };
  const response = await fetch(new URL(name.replace("/", "%2f"), registry), {
    method: "PUT",
    headers: { "content-type": "application/json", authorization: "Bearer loopback" },
    body: JSON.stringify(body),
  });
  if (!response.ok) throw new Error(`${name}@${version} was not accepted: ${response.status} ${await response.text()}`);
}
