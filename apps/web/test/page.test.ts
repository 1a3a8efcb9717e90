/** The page as it is served, in headless Chromium: everything by clicks, once by keyboard alone, on a phone's width, by day and night. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import type { AddressInfo } from "node:net";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { isMeasured, parseResults, type RunFile } from "@fa/bench";
import { chromium, type Browser, type BrowserContextOptions, type Download, type Page } from "playwright";
import { build, createLogger, preview, type PreviewServer } from "vite";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { CHROMIUM_ARGS, CHROMIUM_WEBGPU_ARGS, findChromium } from "../../../tools/test-needs.ts";
import { serve } from "../tools/serve.ts";

const ROOT = join(import.meta.dirname, "..");
const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const need = findChromium();
/** Why there is no test. */
const lack = !need.found
  ? need.why
  : /@sparticuz/.test(need.why)
    ? "npm's Chromium ends where a text field begins. Fix: apt-get install chromium"
    : undefined;

let folder: string;
let server: PreviewServer;
let browser: Browser;
/** Whatever a page said that it should not have. */
let complaints: string[] = [];
let pages: Page[] = [];

async function open(
  search = "",
  options: BrowserContextOptions = {},
  { from = server, by = browser } = {},
): Promise<Page> {
  const context = await by.newContext({ viewport: { width: 1100, height: 900 }, ...options });
  const page = await context.newPage();
  // Of a machine that has other tests to run: a software adapter takes its time.
  page.setDefaultTimeout(60_000);
  pages.push(page);
  const [home] = from.resolvedUrls!.local;
  page.on("pageerror", (error) => complaints.push(error.message));
  page.on("console", (said) => {
    if (["error", "warning"].includes(said.type())) complaints.push(said.text());
  });
  page.on("request", (request) => {
    const url = request.url();
    if (!url.startsWith(home) && !url.startsWith("blob:")) complaints.push(`asked for ${url}`);
  });
  await page.goto(`${home}${search}`);
  await page.getByText("Back ends that work here").waitFor();
  return page;
}

const part = (page: Page, name: string) => page.getByRole("region", { name, exact: true });
const suite = (page: Page) => part(page, "Conformance");
const benchmark = (page: Page) => part(page, "Benchmark");
const tiles = (page: Page) => part(page, "The algorithm, tile by tile");
const press = (page: Page, name: string) => page.getByRole("button", { name, exact: true }).click();

const textOf = async (download: Download): Promise<string> => readFileSync(await download.path(), "utf8");
async function saved(page: Page, button: string): Promise<{ name: string; text: string }> {
  const [download] = await Promise.all([page.waitForEvent("download"), press(page, button)]);
  return { name: download.suggestedFilename(), text: await textOf(download) };
}

/** Sets the benchmark to one small size. */
async function chooseLittle(page: Page, backend: string): Promise<void> {
  const here = benchmark(page);
  await here.getByText("What to measure").click();
  await here.getByLabel(backend).check();
  for (const name of ["the tutorials' case", "FlashMHA, against PyTorch's answers", "256", "512", "1024", "2048"])
    await here.getByLabel(name).uncheck();
}

describe.skipIf(lack !== undefined)(lack === undefined ? "the page" : `the page: ${lack}`, { timeout: 120_000 }, () => {
  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), "fa-web-"));
    const logger = createLogger("warn");
    logger.warn = logger.warnOnce = logger.error = (message) => void complaints.push(message);
    await build({
      root: ROOT,
      configFile: join(ROOT, "vite.config.ts"),
      customLogger: logger,
      resolve: { conditions: ["@fa/source", "module", "browser", "production"] },
      build: { outDir: folder, emptyOutDir: true },
    });
    server = await serve({ host: "127.0.0.1", port: 0 }, folder);
    browser = await chromium.launch({ executablePath: need.path!, args: [...CHROMIUM_ARGS, ...CHROMIUM_WEBGPU_ARGS] });
  });
  afterAll(async () => {
    await browser?.close();
    await server?.close();
    rmSync(folder, { recursive: true, force: true });
  });
  afterEach(async () => {
    await Promise.all(pages.map((page) => page.context().close()));
    const said = complaints;
    [pages, complaints] = [[], []];
    if (said.length > 0) throw new Error(`the build or the console complained: ${said.join("; ")}`);
  });

  test("says what this browser can do, what is missing, and how to get it", async () => {
    const page = await open();
    const facts = part(page, "What this browser can do");
    const list = await facts.innerText();
    expect(list).toMatch(/WebGPU partly\s+Only a software adapter.*Turn on graphics acceleration/s);
    expect(list).toMatch(/Threads yes\s+The page is cross-origin isolated/);
    expect(list).toMatch(/WebAssembly SIMD yes/);
    expect(list).toMatch(/Float16Array yes/);
    expect(list).toMatch(/Reference works/);
    await facts.getByText("Features and limits of the GPU").click();
    await facts.getByRole("row", { name: /maxBufferSize/ }).waitFor();
  });

  test("runs the suite on each back end that is there, with progress", async () => {
    const page = await open("?backends=wasm,webgpu-software,reference&capabilities=determinism&runs=1");
    await press(page, "Run the suite");
    const verdicts = suite(page)
      .getByRole("article")
      .getByText(/^1 passed, 0 failed, 0 refused, in [\d.]+ s\.$/);
    await verdicts.nth(2).waitFor();
    expect(
      await suite(page)
        .getByRole("progressbar")
        .evaluateAll((bars) => bars.map((bar) => (bar as HTMLProgressElement).position)),
    ).toEqual([1, 1, 1]);
    expect(await suite(page).getByRole("status").innerText()).toMatch(/WebAssembly: 1 passed.* Reference: 1 passed/s);
  });

  test("lists what failed, with the reason; a choice of capabilities is in the address", async () => {
    const page = await open("?backends=reference");
    await page.route("**/golden/linear.safetensors", async (route) => {
      const response = await route.fetch();
      const body = await response.body();
      await route.fulfill({ response, body: body.fill(0, body.length - 4096) });
    });
    await suite(page).getByText("What to check: everything").click();
    await press(page, "None");
    await suite(page)
      .getByLabel(/^linear/)
      .check();
    await press(page, "Run the suite");
    await suite(page)
      .getByText(/^Failed: [1-9]/)
      .waitFor();
    expect(await suite(page).getByRole("listitem").first().innerText()).toMatch(/linear: .*\n.+/);
    expect(new URL(page.url()).search).toBe("?backends=reference&capabilities=linear");
  });

  test("a run of the suite can be cancelled and started again", async () => {
    const page = await open("?backends=wasm,reference&capabilities=float16,bfloat16,dropout");
    await press(page, "Run the suite");
    await suite(page)
      .getByText(/^[1-9]\d* of \d+: /)
      .waitFor();
    await press(page, "Cancel");
    const verdicts = suite(page)
      .getByRole("article")
      .getByText(/^cancelled after \d+ of \d+/);
    await expect.poll(() => verdicts.count()).toBe(2);
    await press(page, "Run the suite");
    await suite(page)
      .getByText(/^[1-9]\d* of \d+: /)
      .waitFor();
    await press(page, "Cancel");
  });

  test("measures, draws, and hands out the results as the terminal writes them", async () => {
    const page = await open("", { permissions: ["clipboard-read", "clipboard-write"], acceptDownloads: true });
    await chooseLittle(page, "WebAssembly");
    await benchmark(page).getByLabel("What results call this machine").fill("a test's machine");
    await press(page, "Run the benchmark");
    await benchmark(page).getByText("Finished: 2 measured.").waitFor();
    const rows = await benchmark(page).getByRole("row").allInnerTexts();
    expect(rows[0].split(/\s*\t\s*/)).toEqual([
      "case",
      "ms",
      "first",
      "GFLOP/s",
      "of roof",
      "memory",
      "scores",
      "error",
    ]);
    expect(rows.slice(1).map((row) => row.split("\t")[0])).toEqual(["S 128, full", "S 128, causal"]);
    await benchmark(page)
      .getByRole("img", { name: /Chart of GFLOP\/s.*S 128, full: [\d.]+; S 128, causal: [\d.]+\./ })
      .waitFor();
    await expect.poll(() => benchmark(page).locator("canvas").count()).toBeGreaterThan(0);

    const { name, text } = await saved(page, "Download the results");
    expect(name).toBe("fa-bench-wasm.json");
    const file = parseResults(text, name) as RunFile;
    expect(file).toMatchObject({
      kind: "run",
      complete: true,
      backend: { name: "wasm" },
      machine: { name: "a test's machine" },
    });
    expect(file.outcomes.map(({ id }) => id)).toEqual(["sweep/128/full", "sweep/128/causal"]);
    expect(file.outcomes.every(isMeasured)).toBe(true);
    // The server stands in a checkout, if this test does.
    expect(file.commit).toMatch(/^[0-9a-f]{12}(-dirty)?$/);

    await press(page, "Copy the results");
    await benchmark(page).getByText("Copied.").waitFor();
    expect(await page.evaluate(() => navigator.clipboard.readText())).toBe(text);
    expect((await saved(page, "Download the chart")).text).toMatch(/^<svg .*Attention forward, back end wasm/s);

    expect((await saved(page, "Download a report")).text).toMatch(
      /^<!doctype html>.*a test&#39;s machine|^<!doctype html>.*a test's machine/s,
    );

    const input = benchmark(page).getByLabel("Open a results file");
    const give = (content: string) =>
      input.setInputFiles({ name: "given.json", mimeType: "application/json", buffer: Buffer.from(content) });
    const alert = benchmark(page).getByRole("alert");
    await give(text.slice(0, 300));
    await expect.poll(() => alert.innerText()).toMatch(/^given.json: the results file must be a whole JSON file/);
    await give(text.replace(/"version": \d+/, '"version": 1'));
    await expect.poll(() => alert.innerText()).toMatch(/must have version/);
    await give(text.replaceAll("a test's machine", "another machine"));
    await benchmark(page).getByText("another machine").waitFor();
    expect(await alert.innerText()).toBe("");
  });

  test("a GPU is timed by its own clock, and its memory is measured", async () => {
    const page = await open("", { acceptDownloads: true });
    await chooseLittle(page, "WebGPU on a software adapter");
    await benchmark(page).getByLabel("heads H").fill("1");
    await benchmark(page).getByLabel("head dim D").fill("16");
    await benchmark(page).getByLabel("decode").check();
    await benchmark(page).getByLabel("forward, full and causal").uncheck();
    await press(page, "Run the benchmark");
    await benchmark(page).getByText("Finished: 1 measured.").waitFor();
    const file = parseResults((await saved(page, "Download the results")).text, "gpu") as RunFile;
    expect(file.outcomes.filter(isMeasured).map(({ id, timing }) => [id, timing.timer])).toEqual([
      ["run/decode/float32/1x128", "gpu"],
    ]);
    expect(file.bandwidth!.gbs).toBeGreaterThan(0);
  });

  test("a benchmark that is stopped keeps what was measured, as a file that says so", async () => {
    const page = await open("", { acceptDownloads: true });
    const here = benchmark(page);
    await here.getByLabel("WebAssembly").check();
    await press(page, "Run the benchmark");
    await here.getByText(/^[1-9] of 14 cases done/).waitFor();
    await press(page, "Stop");
    await here.getByText("Stopped. What was measured is kept.").waitFor();
    const { text } = await saved(page, "Download the results");
    expect(parseResults(text, "stopped")).toMatchObject({ complete: false });
  });

  test("a number that is missing is asked for, and nothing runs", async () => {
    const page = await open();
    await chooseLittle(page, "Reference");
    await benchmark(page).getByLabel("heads H").fill("");
    await press(page, "Run the benchmark");
    expect(await benchmark(page).locator(":invalid").count()).toBeGreaterThan(0);
    expect(await benchmark(page).getByRole("progressbar").count()).toBe(0);
  });

  test("steps through the tiles to the exact result", async () => {
    const page = await open();
    const here = tiles(page);
    const said = here.getByRole("status");
    expect(await said.innerText()).toMatch(/^Tile 1 of 6: rows 0 to 3, keys 0 to 1, .*2 tiles show nothing/);
    await press(page, "Next tile");
    expect(await said.innerText()).toMatch(/^Tile 2 of 6: rows 0 to 3, keys 2 to 3, .*off by nothing/);
    await press(page, "Back");
    expect(await said.innerText()).toMatch(/^Tile 1 of 6/);
    await here.getByLabel("tile keys Bc").selectOption("8");
    await here.getByLabel("causal").uncheck();
    expect(await said.innerText()).toMatch(/^Tile 1 of 2: rows 0 to 3, keys 0 to 7, all visible.*off by nothing/);
    await here.getByLabel("tile keys Bc").selectOption("1");
    await here.getByLabel("window: keys to the left").selectOption("1");
    await here.getByLabel("to the right").selectOption("0");
    expect(await said.innerText()).toMatch(/^Tile 1 of 9: .*7 tiles show nothing/);
    const before = await here.getByRole("table").first().innerText();
    await press(page, "Other numbers");
    expect(await here.getByRole("table").first().innerText()).not.toBe(before);
    await press(page, "Play");
    await expect.poll(() => said.innerText(), { timeout: 5000 }).toMatch(/^Tile 2 of 9/);
    await press(page, "Pause");
  });

  test("works by keyboard alone: every control is reached in order, is seen to have the focus, and answers", async () => {
    const page = await open("?backends=reference&capabilities=tutorial");
    const seen: { name: string; top: number; outline: number }[] = [];
    for (;;) {
      await page.keyboard.press("Tab");
      const focus = await page.evaluate(() => {
        const element = document.activeElement!;
        if (element === document.body) return undefined;
        const shown = element.closest(".button") ?? element;
        const { outlineStyle, outlineWidth } = getComputedStyle(shown);
        return {
          name:
            (element as HTMLInputElement).labels?.[0]?.textContent ||
            element.textContent ||
            element.getAttribute("aria-label") ||
            "",
          top: shown.getBoundingClientRect().top + scrollY,
          outline: outlineStyle === "none" ? 0 : Number.parseFloat(outlineWidth),
        };
      });
      if (!focus || seen.length > 80) break;
      seen.push(focus);
    }
    const names = seen.map(({ name }) => name.trim());
    expect(names[0]).toBe("Skip to the content");
    for (const name of [
      "This browser",
      "Run the suite",
      "Cancel",
      "Run the benchmark",
      "Stop",
      "Open a results file",
      "Next tile",
      "Play",
    ]) {
      expect(names).toContain(name);
    }
    expect(names).not.toContain("");
    expect(seen.filter(({ outline }) => outline < 2).map(({ name }) => name)).toEqual([]);
    seen
      .slice(1)
      .forEach(({ top, name }, n) => expect(top, `${name} comes after ${names[n]}`).toBeGreaterThan(seen[n].top - 45));

    await page.getByRole("button", { name: "Run the suite" }).focus();
    await page.keyboard.press("Enter");
    await suite(page)
      .getByText(/^4 passed/)
      .waitFor();
    expect(await page.evaluate(() => document.activeElement?.textContent?.trim())).toBe("Run the suite");
    await tiles(page).getByRole("slider").focus();
    await page.keyboard.press("End");
    expect(await tiles(page).getByRole("status").innerText()).toMatch(/^Tile 6 of 6/);
    await page.keyboard.press("ArrowLeft");
    expect(await tiles(page).getByRole("status").innerText()).toMatch(/^Tile 5 of 6/);
  });

  test.each(["light", "dark"] as const)(
    "fits a phone and keeps to the rules of accessibility in the %s",
    async (colorScheme) => {
      const page = await open("?backends=reference&capabilities=tutorial", {
        colorScheme,
        viewport: { width: 320, height: 640 },
      });
      await chooseLittle(page, "WebAssembly");
      await press(page, "Run the suite");
      await suite(page)
        .getByText(/^4 passed/)
        .waitFor();
      await press(page, "Run the benchmark");
      await benchmark(page).getByText("Finished: 2 measured.").waitFor();
      await page
        .locator("details")
        .evaluateAll((all) => all.forEach((details) => ((details as HTMLDetailsElement).open = true)));
      await suite(page)
        .getByLabel(/^causal \d/)
        .waitFor();
      await tiles(page).getByLabel("sequence length S").selectOption("16");
      expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBe(320);
      await page.evaluate(AXE);
      const violations = await page.evaluate(async () => {
        const { axe } = window as unknown as {
          axe: { run(): Promise<{ violations: { id: string; nodes: { html: string; failureSummary: string }[] }[] }> };
        };
        return (await axe.run()).violations.map(
          ({ id, nodes }) =>
            `${id}: ${nodes.map(({ html, failureSummary }) => `${html} ${failureSummary}`).join("\n")}`,
        );
      });
      expect(violations).toEqual([]);
    },
  );

  test("works without WebGPU, without cross-origin isolation and where the commit is not known: one thread, and it says so", async () => {
    const plain = await preview({
      root: ROOT,
      configFile: false,
      logLevel: "silent",
      build: { outDir: folder },
      preview: { host: "127.0.0.1", port: 0 },
    });
    const bare = await chromium.launch({
      executablePath: need.path!,
      args: [...CHROMIUM_ARGS, "--disable-features=WebGPU", "--disable-blink-features=WebGPU"],
    });
    try {
      const page = await open("?capabilities=tutorial", { acceptDownloads: true }, { from: plain, by: bare });
      const list = await part(page, "What this browser can do").innerText();
      expect(list).toMatch(
        /WebGPU missing\s+(The browser knows WebGPU, but gives no adapter|This browser has no WebGPU)/,
      );
      expect(list).toMatch(
        /Threads missing\s+The page is not cross-origin isolated, so WebAssembly computes on one thread\. The server has to send/,
      );
      expect(list).toMatch(/WebAssembly works\s+WebAssembly relaxed SIMD, one thread/);
      await press(page, "Run the suite");
      await suite(page)
        .getByRole("article")
        .getByText(/^4 passed, 0 failed/)
        .nth(1)
        .waitFor();
      await chooseLittle(page, "WebAssembly");
      await press(page, "Run the benchmark");
      await benchmark(page).getByText("Finished: 2 measured.").waitFor();
      const { text } = await saved(page, "Download the results");
      expect(parseResults(text, "plain")).toMatchObject({
        commit: null,
        backend: { device: expect.stringMatching(/one thread/) },
      });
    } finally {
      await bare.close();
      await plain.close();
    }
  });

  test("a port in use is one clear line and an exit code of 1", async () => {
    const taken = createServer().listen(0, "127.0.0.1");
    await once(taken, "listening");
    try {
      const { port } = taken.address() as AddressInfo;
      await expect(serve({ host: "127.0.0.1", port }, folder)).rejects.toThrow(
        `port ${port} on 127.0.0.1 is in use: end who uses it, or pass --port`,
      );
      const child = spawn(process.execPath, [join(ROOT, "tools/serve.ts"), "--port", "many"], {
        stdio: ["ignore", "pipe", "pipe"],
      });
      let stderr = "";
      child.stderr.on("data", (chunk) => (stderr += String(chunk)));
      const [code] = (await once(child, "close")) as [number];
      expect(code).toBe(1);
      expect(stderr).toBe("web: --port must be a whole number from 0 to 65535; got many\n");
    } finally {
      taken.close();
    }
  });
});
