import { execFile } from "node:child_process";
import { mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  assertLoopback,
  childEnvironment,
  guard,
  npmrc,
  putTarball,
  startRegistry,
  type LoopbackRegistry,
} from "./loopback.ts";

const run = promisify(execFile);
const OURS = "http://127.0.0.1:4873/";
const FOREIGN = "https://registry.example/";

describe("a setting that is not the loopback registry aborts", () => {
  test.each([
    FOREIGN,
    "https://127.0.0.1:4873/",
    "http://127.0.0.1:4874/",
    "http://127.0.0.1/",
    "http://localhost:4873/",
    "http://127.0.0.1:4873.registry.example/",
    "http://127.0.0.1:4873@registry.example/",
    "http://registry.example/127.0.0.1:4873/",
    "undefined",
    "",
  ])("%s", (setting) => {
    expect(() => assertLoopback(setting, OURS)).toThrow(/registry other than/);
  });

  test("and so does a registry of ours that is not on loopback", () => {
    expect(() => assertLoopback(FOREIGN, FOREIGN)).toThrow(/not a loopback registry/);
  });

  test("while ours passes, with and without the last slash and a line's end", () => {
    expect(() => assertLoopback(OURS, OURS)).not.toThrow();
    expect(() => assertLoopback("http://127.0.0.1:4873\n", OURS)).not.toThrow();
  });
});

describe("with a registry", () => {
  let folder: string;
  let registry: LoopbackRegistry;
  beforeAll(async () => {
    folder = mkdtempSync(join(realpathSync(tmpdir()), "fa-loopback-"));
    registry = await startRegistry(join(folder, "registry"));
  });
  afterAll(async () => {
    await registry.close();
    rmSync(folder, { recursive: true, force: true });
  });
  const empty = () => mkdtempSync(join(folder, "project-"));
  const environment = (inherited: NodeJS.ProcessEnv = process.env) =>
    childEnvironment(inherited, mkdtempSync(join(folder, "home-")), registry.url);

  test("nothing of the caller's npm, pnpm or proxy settings is inherited", () => {
    const env = environment({
      PATH: "/bin",
      npm_config_registry: FOREIGN,
      NPM_CONFIG_REGISTRY: FOREIGN,
      "npm_config_@fa:registry": FOREIGN,
      npm_package_name: "fa",
      pnpm_config_registry: FOREIGN,
      PNPM_HOME: "/p",
      XDG_CONFIG_HOME: "/x",
      HTTPS_PROXY: FOREIGN,
      all_proxy: FOREIGN,
      HOME: "/root",
    });
    expect(Object.values(env)).not.toContain(FOREIGN);
    const set = "PATH HOME USERPROFILE npm_config_userconfig npm_config_globalconfig npm_config_cache";
    const proxies = "HTTP_PROXY HTTPS_PROXY http_proxy https_proxy NO_PROXY no_proxy";
    expect(Object.keys(env).toSorted()).toEqual(`${set} ${proxies}`.split(" ").toSorted());
    expect(env["HOME"]).not.toBe("/root");
  });

  test("the guard lets a folder of ours pass", async () => {
    const project = empty();
    writeFileSync(join(project, ".npmrc"), npmrc(registry.url));
    const passing = guard(project, environment(), registry.url, [{}, { publishConfig: { access: "public" } }]);
    await expect(passing).resolves.toBeUndefined();
  });

  test.each([
    ["registry in .npmrc", `registry=${FOREIGN}\n`],
    ["@fa:registry in .npmrc", `@fa:registry=${FOREIGN}\n`],
  ])("the guard aborts on a foreign %s", async (_, text) => {
    const project = empty();
    writeFileSync(join(project, ".npmrc"), text);
    await expect(guard(project, environment(), registry.url, [])).rejects.toThrow(/registry other than/);
  });

  test("the guard aborts on a foreign registry in the environment", async () => {
    const env = { ...environment(), npm_config_registry: FOREIGN };
    await expect(guard(empty(), env, registry.url, [])).rejects.toThrow(/registry other than/);
  });

  test.each(["registry", "@fa:registry"])(
    "the guard aborts on a foreign %s in a package's publishConfig",
    async (key) => {
      await expect(
        guard(empty(), environment(), registry.url, [{ publishConfig: { [key]: FOREIGN } }]),
      ).rejects.toThrow(/registry other than/);
    },
  );

  test("a child that names another registry all the same does not reach it", async () => {
    const asking = run("npm", ["view", "@fa/core", "--fetch-retries=0", `--@fa:registry=${FOREIGN}`], {
      cwd: empty(),
      env: environment(),
    });
    await expect(asking).rejects.toThrow(/ECONNREFUSED 127\.0\.0\.1:9/);
  });

  test("what was published can be installed, what was not is not found", async () => {
    const env = environment();
    const source = empty();
    writeFileSync(join(source, "package.json"), `{ "name": "@fa/probe", "version": "1.2.3" }`);
    const { stdout } = await run("npm", ["pack", "--silent"], { cwd: source, env });
    await putTarball(registry.url, { name: "@fa/probe", version: "1.2.3" }, readFileSync(join(source, stdout.trim())));

    const project = empty();
    await run("npm", ["install", "@fa/probe"], { cwd: project, env });
    expect(readFileSync(join(project, "node_modules", "@fa", "probe", "package.json"), "utf8")).toContain("1.2.3");
    await expect(run("npm", ["install", "vitest"], { cwd: project, env })).rejects.toThrow(/E404/);
  });
});
