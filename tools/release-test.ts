// npm run release-test: a dress rehearsal of a release, on loopback only (tools/loopback.ts says how).
//
// Clones the checkout as it stands, versions and publishes every public package there by changesets, each one clean for
// publint and attw, then is a stranger: installs @fa/core and the back ends in an empty folder with plain npm and
// runs the README's first ts block in Node, through a Vite production build in Chromium (a warning is an error), and
// under `tsc --strict` with both module resolutions. Exit code 0 when all of it holds.

import { spawn } from "node:child_process";
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { chromium } from "playwright";
import { build, createLogger, preview } from "vite";
import { childEnvironment, guard, npmrc, putTarball, startRegistry, type Environment } from "./loopback.ts";
import { findChromium, root } from "./test-needs.ts";

interface Manifest {
  readonly name: string;
  readonly version: string;
  readonly private?: boolean;
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly publishConfig?: unknown;
}

const work = mkdtempSync(join(realpathSync(tmpdir()), "fa-release-"));
const clone = join(work, "clone");
const packs = join(work, "packs");
const consumer = join(work, "consumer");

const manifestAt = (folder: string): Manifest =>
  JSON.parse(readFileSync(join(folder, "package.json"), "utf8")) as Manifest;

/** Runs to the end and gives stdout; a non-zero exit throws with everything that was printed. */
function run(
  command: string,
  args: readonly string[],
  cwd: string,
  env: Environment | NodeJS.ProcessEnv,
): Promise<string> {
  return new Promise((resolve, reject) => {
    let stdout = "";
    let all = "";
    const child = spawn(command, args, { cwd, env, stdio: ["ignore", "pipe", "pipe"] });
    child.stdout.on("data", (chunk) => {
      stdout += chunk;
      all += chunk;
    });
    child.stderr.on("data", (chunk) => (all += chunk));
    child.on("error", reject);
    child.on("close", (code) => {
      if (code === 0) resolve(stdout);
      else reject(new Error(`${command} ${args.join(" ")} exited with ${code}:\n${all.trim()}`));
    });
  });
}

/** Holds nothing but an addon. */
const ADDON_PACKAGE = "packages/backend-cuda/npm/linux-x64";
const WITH_ADDON: readonly string[] = ["packages/backend-cuda", ADDON_PACKAGE];

let steps = 0;
async function step<T>(name: string, body: () => T | Promise<T>): Promise<T> {
  const start = performance.now();
  try {
    const result = await body();
    steps += 1;
    console.log(`ok      ${name} (${((performance.now() - start) / 1000).toFixed(1)} s)`);
    return result;
  } catch (error) {
    console.log(`FAILED  ${name}`);
    throw error;
  }
}

/** The last commit with the working tree's changes on top: what `git add --all` would see. No remote, so no way back. */
async function cloneCheckout(): Promise<void> {
  const git = (args: string[], cwd = root) => run("git", args, cwd, process.env);
  await git(["clone", "--quiet", "--local", root, clone]);
  await git(["remote", "remove", "origin"], clone);
  const list = async (...flags: string[]) => (await git(["ls-files", "-z", ...flags])).split("\0").filter(Boolean);
  const deleted = new Set(await list("--deleted"));
  for (const file of deleted) rmSync(join(clone, file), { force: true });
  for (const file of await list("--cached", "--others", "--exclude-standard")) {
    if (!deleted.has(file)) cpSync(join(root, file), join(clone, file), { recursive: true });
  }
}

/**
 * The CUDA addon is not in git: it is taken over from the checkout, if it may be published.
 * @returns whether it was
 */
async function takeAddon(): Promise<boolean> {
  try {
    await run(process.execPath, ["packages/backend-cuda/tools/build.ts", "--release"], root, process.env);
    for (const file of ["fa-cuda.node", "stamp.json"])
      cpSync(join(root, ADDON_PACKAGE, file), join(clone, ADDON_PACKAGE, file));
    return true;
  } catch (error) {
    console.log(`not published: ${WITH_ADDON.join(", ")}: ${(error as Error).message.split("\n").at(-1)}`);
    return false;
  }
}

function makePrivate(folder: string): void {
  const manifest = { ...manifestAt(join(clone, folder)), private: true };
  writeFileSync(join(clone, folder, "package.json"), `${JSON.stringify(manifest, undefined, 2)}\n`);
}

/** The packages that the public ones need at run time, as the install of the clone has them, at any depth. */
function thirdParty(folders: readonly string[]): string[] {
  const found = new Set<string>();
  const visit = (folder: string): void => {
    for (const name of Object.keys(manifestAt(folder).dependencies ?? {})) {
      let place = folder;
      while (!existsSync(join(place, "node_modules", name)) && place !== dirname(place)) place = dirname(place);
      const at = join(place, "node_modules", name);
      if (!existsSync(at)) throw new Error(`${name}, which ${folder} depends on, is not installed`);
      const real = realpathSync(at);
      if (name.startsWith("@fa/") || found.has(real)) continue;
      found.add(real);
      visit(real);
    }
  };
  folders.forEach(visit);
  return [...found];
}

function readmeExample(): string {
  const example = /^```ts\n(.*?)^```$/ms.exec(readFileSync(join(clone, "README.md"), "utf8"))?.[1];
  if (example === undefined) throw new Error("README.md has no ```ts block");
  return example;
}

async function viteBuild(): Promise<void> {
  const complaints: string[] = [];
  const logger = createLogger("warn");
  logger.warn = logger.warnOnce = logger.error = (message) => void complaints.push(message);
  writeFileSync(
    join(consumer, "index.html"),
    `<!doctype html><link rel="icon" href="data:,"><script type="module">import "./example.ts"; document.title = "finished";</script>`,
  );
  await build({ root: consumer, configFile: false, logLevel: "warn", customLogger: logger });
  if (complaints.length > 0) throw new Error(complaints.join("\n"));
}

async function runInChromium(): Promise<string> {
  const need = findChromium();
  if (!need.found) throw new Error(need.why);
  const server = await preview({
    root: consumer,
    configFile: false,
    logLevel: "silent",
    preview: { host: "127.0.0.1", port: 0 },
  });
  const browser = await chromium.launch({
    executablePath: need.path,
    args: ["--no-sandbox", "--disable-background-networking"],
  });
  try {
    const page = await browser.newPage();
    const printed: string[] = [];
    const broken = new Promise<never>((_, reject) => {
      page.on("pageerror", reject);
      page.on("console", (message) => {
        if (message.type() === "error") reject(new Error(message.text()));
        printed.push(message.text());
      });
    });
    await page.goto(server.resolvedUrls!.local[0]);
    await Promise.race([page.waitForFunction(() => document.title === "finished"), broken]);
    return printed.join("\n");
  } finally {
    await browser.close();
    await server.close();
  }
}

async function rehearse(): Promise<void> {
  const registry = await startRegistry(join(work, "registry"));
  const env = childEnvironment(process.env, join(work, "home"), registry.url);
  try {
    await step("clone the checkout", cloneCheckout);
    writeFileSync(join(clone, ".npmrc"), npmrc(registry.url));
    const withAddon = await takeAddon();
    const packages = readdirSync(join(clone, "packages"))
      .map((name) => join(clone, "packages", name))
      .concat(join(clone, ADDON_PACKAGE));

    await step("no other registry can be reached", () => guard(clone, env, registry.url, packages.map(manifestAt)));
    await step("install and build the clone, offline", async () => {
      // Only the place of pnpm's store is taken over from the caller: everything is in it since the checkout's own install.
      const store = (await run("pnpm", ["store", "path"], root, process.env)).trim();
      // Its age policy has been applied there too, and would ask the registry for dates.
      const install = [
        "install",
        "--offline",
        "--frozen-lockfile",
        "--config.minimumReleaseAge=0",
        "--store-dir",
        dirname(store),
      ];
      await run("pnpm", install, clone, env);
      await run("pnpm", ["--recursive", "--filter", "./packages/**", "run", "build"], clone, env);
    });

    await step("version and pack", async () => {
      await run("changeset", ["version"], clone, env);
      await run(process.execPath, ["tools/versions.ts"], clone, env);
      // Not before: a changeset of theirs and of others is one of public packages.
      if (!withAddon) WITH_ADDON.forEach(makePrivate);
      await run("changeset", ["pack", "--out-dir", packs], clone, env);
    });
    const publicOnes = packages.filter((folder) => !manifestAt(folder).private);
    const versions = publicOnes.map(manifestAt);
    const tarballs = readdirSync(packs, { recursive: true, encoding: "utf8" }).filter((file) => file.endsWith(".tgz"));
    if (tarballs.length !== versions.length)
      throw new Error(`${versions.length} public packages, but packed were ${tarballs.join(", ") || "none"}`);
    await step("publint and attw are content with every package", () =>
      Promise.all(
        tarballs.flatMap((file) => [
          run("publint", ["run", join(packs, file), "--strict"], clone, env),
          // An addon has no types of its own.
          ...(/linux-x64/.test(file)
            ? []
            : [run("attw", [join(packs, file), "--profile", "esm-only", "--no-emoji"], clone, env)]),
        ]),
      ),
    );

    await step(`publish ${versions.map(({ name, version }) => `${name}@${version}`).join(", ")}`, async () => {
      await guard(clone, env, registry.url, publicOnes.map(manifestAt));
      await run("changeset", ["publish", "--from-pack-dir", packs, "--no-git-tag"], clone, env);
      for (const { name, version } of versions) {
        const response = await fetch(new URL(`${name.replace("/", "%2f")}/${version}`, registry.url));
        if (!response.ok) throw new Error(`${name}@${version} did not arrive`);
      }
      await Promise.all(
        thirdParty(publicOnes).map(async (folder) => {
          const to = mkdtempSync(join(work, "third-party-"));
          cpSync(folder, join(to, "package"), { recursive: true });
          await run("tar", ["-czf", "package.tgz", "package"], to, env);
          await putTarball(registry.url, manifestAt(folder), readFileSync(join(to, "package.tgz")));
        }),
      );
    });

    mkdirSync(consumer);
    writeFileSync(join(consumer, "package.json"), `{ "name": "consumer", "private": true, "type": "module" }\n`);
    writeFileSync(join(consumer, "example.ts"), readmeExample());
    await step("npm install @fa/core @fa/backend-webgpu @fa/backend-wasm in an empty folder", async () => {
      await guard(consumer, env, registry.url, []);
      await run("npm", ["install", "@fa/core", "@fa/backend-webgpu", "@fa/backend-wasm"], consumer, env);
    });
    for (const [module, moduleResolution] of [
      ["nodenext", "nodenext"],
      ["esnext", "bundler"],
    ]) {
      await step(`the README's example under tsc --strict, ${moduleResolution}`, () => {
        const compilerOptions = {
          strict: true,
          target: "esnext",
          lib: ["esnext", "dom"],
          module,
          moduleResolution,
          types: [],
          skipLibCheck: false,
          noEmit: true,
        };
        const config = `tsconfig.${moduleResolution}.json`;
        writeFileSync(join(consumer, config), JSON.stringify({ compilerOptions, files: ["example.ts"] }));
        return run("tsc", ["-p", config], consumer, env);
      });
    }
    const mustPrint = (text: string): void => {
      if (text.trim() === "") throw new Error("the example printed nothing");
    };
    await step("the README's example in Node", async () => mustPrint(await run("node", ["example.ts"], consumer, env)));
    await step("a Vite production build of it, without a warning", viteBuild);
    await step("what Vite built, in Chromium", async () => mustPrint(await runInChromium()));

    await step("npm install @fa/conformance @fa/nn, and the fa-conformance command answers", async () => {
      const other = join(work, "other");
      mkdirSync(other);
      writeFileSync(join(other, "package.json"), `{ "name": "other", "private": true, "type": "module" }\n`);
      await guard(other, env, registry.url, []);
      await run("npm", ["install", "@fa/conformance", "@fa/nn"], other, env);
      mustPrint(await run("npx", ["--no-install", "fa-conformance", "--help"], other, env));
      await run(
        "node",
        ["--input-type=module", "--eval", `await import("@fa/nn"); await import("@fa/conformance");`],
        other,
        env,
      );
    });

    if (!withAddon) return;
    await step(
      "npm install @fa/backend-cuda, and its addon loads and says what GPU there is, or why there is none",
      async () => {
        const gpu = join(work, "gpu");
        mkdirSync(gpu);
        writeFileSync(join(gpu, "package.json"), `{ "name": "gpu", "private": true, "type": "module" }\n`);
        await guard(gpu, env, registry.url, []);
        await run("npm", ["install", "@fa/core", "@fa/backend-cuda"], gpu, env);
        const probe = `const { cuda } = await import("@fa/backend-cuda"); console.log(JSON.stringify(await cuda().probe()));`;
        const said = await run("node", ["--input-type=module", "--eval", probe], gpu, env);
        if (!/"ok":true|no NVIDIA driver|driver is too old|shows no device/.test(said)) throw new Error(said);
      },
    );
  } finally {
    await registry.close();
  }
}

try {
  await rehearse();
  console.log(`release-test: all ${steps} steps passed`);
} catch (error) {
  console.log(error instanceof Error ? error.message : String(error));
  console.log(`release-test: failed after ${steps} steps`);
  process.exitCode = 1;
} finally {
  rmSync(work, { recursive: true, force: true });
}
