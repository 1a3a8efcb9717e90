/**
 * A page that uses the package, built by Vite and by webpack with no configuration, then loaded in Chromium: with
 * cross-origin isolation on two threads, without it on one.
 */
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { extname, join } from "node:path";
import { chromium, type Browser } from "playwright";
import { build as viteBuild } from "vite";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import webpack from "webpack";
import { findChromium, root } from "../../../tools/test-needs.ts";

const PAGE = `
import { createAttention } from "@fa/core";
import { wasm } from "@fa/backend-wasm";

const run = async (threads) => {
  const fa = await createAttention({ backends: [wasm({ threads })] });
  const numbers = Float32Array.from({ length: 4 * 500 * 64 }, (_, n) => Math.sin(n));
  const q = fa.tensor(numbers, { shape: [1, 4, 500, 64] });
  const { out } = await fa.attention(q, q, q, { causal: true });
  const bits = new Uint32Array((await out.data()).buffer);
  await new Promise((resolve) => setTimeout(resolve, 300)); // a worker that cannot be loaded says so a little later
  const { reason } = fa.report[0];
  const device = fa.backend.device;
  await fa.dispose();
  return { device, reason, sum: bits.reduce((sum, word) => (Math.imul(sum, 31) + word) | 0, 0) };
};
globalThis.answer = Promise.all([run(2), run(1)]);
`;

const ISOLATED = { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" };
const TYPES: Readonly<Record<string, string>> = { ".html": "text/html", ".js": "text/javascript" };

interface Answer {
  readonly device: string;
  readonly reason: string;
  readonly sum: number;
}

const need = findChromium();
const page = mkdtempSync(join(tmpdir(), "fa-bundle-"));
let browser: Browser;

beforeAll(async () => {
  // Bundlers see what is published: dist, not the sources.
  const compiler = join(root, "node_modules", "typescript", "bin", "tsc");
  const compiled = spawnSync(process.execPath, [compiler, "-b", "packages/backend-wasm"], {
    cwd: root,
    encoding: "utf8",
  });
  if (compiled.status !== 0) throw new Error(compiled.stdout);
  mkdirSync(join(page, "src"));
  mkdirSync(join(page, "node_modules/@fa"), { recursive: true });
  for (const name of ["core", "backend-wasm"])
    symlinkSync(join(root, "packages", name), join(page, "node_modules/@fa", name));
  writeFileSync(join(page, "package.json"), `{ "name": "page", "private": true, "type": "module" }`);
  writeFileSync(join(page, "src/index.js"), PAGE);
  writeFileSync(join(page, "index.html"), html("/src/index.js"));
  if (need.found) browser = await chromium.launch({ executablePath: need.path, args: ["--no-sandbox"] });
}, 60_000);

afterAll(async () => {
  await browser?.close();
  rmSync(page, { recursive: true, force: true });
});

const html = (script: string): string =>
  `<!doctype html><link rel="icon" href="data:,"><script type="module" src="${script}"></script>`;

/** Each gives the folder to serve, and throws at the first warning. */
const BUNDLERS: Readonly<Record<string, () => Promise<string>>> = {
  async Vite() {
    await viteBuild({ root: page, configFile: false, logLevel: "silent" });
    return join(page, "dist");
  },
  async webpack() {
    const to = join(page, "webpack");
    const stats = await new Promise<webpack.Stats>((resolve, reject) => {
      webpack({ mode: "production", context: page, output: { path: to } }, (error, made) =>
        error ? reject(error) : resolve(made!),
      );
    });
    const { errors = [], warnings = [] } = stats.toJson({ errors: true, warnings: true });
    // Of a bundle's size webpack warns whatever it holds.
    const other = warnings.filter(({ message }) => !message.includes("size limit"));
    expect([...errors, ...other].map(({ message }) => message)).toEqual([]);
    writeFileSync(join(to, "index.html"), html("/main.js"));
    return to;
  },
};

type Headers = Readonly<Record<string, string>>;

function serve(folder: string, ofPage: Headers, ofScripts: Headers): Promise<Server> {
  const server = createServer(({ url = "/" }, response) => {
    const path = url === "/" ? "/index.html" : new URL(url, "http://localhost").pathname;
    try {
      const body = readFileSync(join(folder, path));
      const headers = extname(path) === ".html" ? ofPage : ofScripts;
      response.writeHead(200, { ...headers, "Content-Type": TYPES[extname(path)] ?? "application/octet-stream" });
      response.end(body);
    } catch {
      response.writeHead(404).end();
    }
  });
  return new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(server)));
}

/** What the page answers, and how many workers it started. */
async function load(
  folder: string,
  ofPage: Headers,
  ofScripts = ofPage,
): Promise<{ answers: Answer[]; workers: number }> {
  const server = await serve(folder, ofPage, ofScripts);
  const tab = await browser.newPage();
  const errors: string[] = [];
  let workers = 0;
  tab.on("worker", () => workers++);
  tab.on("pageerror", (error) => errors.push(error.message));
  try {
    await tab.goto(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`);
    await tab.waitForFunction(() => "answer" in globalThis);
    const answers = await tab.evaluate(() => (globalThis as unknown as { answer: Promise<Answer[]> }).answer);
    expect(errors).toEqual([]);
    return { answers, workers };
  } finally {
    await tab.close();
    server.close();
  }
}

describe.skipIf(!need.found)("a page built with no configuration", () => {
  test.each(Object.keys(BUNDLERS))("by %s", { timeout: 60_000 }, async (bundler) => {
    const folder = await BUNDLERS[bundler]();

    const isolated = await load(folder, ISOLATED);
    const [two, one] = isolated.answers;
    expect(two.device).toMatch(/2 threads(,|$)/);
    expect(one.device).toMatch(/one thread(,|$)/);
    expect(two.sum).toBe(one.sum);
    expect(isolated.workers).toBe(1);

    const plain = await load(folder, {});
    expect(plain.answers[0].device).toMatch(/one thread \(the page is not cross-origin isolated/);
    expect(plain.answers[0].reason).toMatch(/COOP and COEP/);
    expect(plain.answers[1].device).toMatch(/one thread(,|$)/);
    expect(plain.answers.map(({ sum }) => sum)).toEqual([one.sum, one.sum]);
    expect(plain.workers).toBe(0);

    // Isolated, but the worker's script comes without the header and is refused: the page computes alone, and says why.
    const partly = await load(folder, ISOLATED, {});
    expect(partly.answers[0].device).toMatch(/but only one works: a worker could not be started: its script/);
    expect(partly.answers[0].sum).toBe(one.sum);
  });
});
