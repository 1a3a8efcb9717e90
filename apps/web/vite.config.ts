// The page as static files: one HTML, its scripts and styles, and the golden data of the suite and of FlashMHA.

import { readdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { currentCommit } from "@fa/bench/machine";
import { defineConfig, type Plugin } from "vite";

/** Nothing but our own files; WebAssembly is compiled from bytes inside our scripts. */
const POLICY = [
  "default-src 'none'",
  "script-src 'self' 'wasm-unsafe-eval'",
  "style-src 'self'",
  "img-src 'self'",
  "connect-src 'self'",
  "worker-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
].join("; ");

/** Cross-origin isolation: SharedArrayBuffer, and with it threads; and a clock of 5 µs. */
const ISOLATION = { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" };

/** The policy travels in the page, for servers that cannot be told headers. Not in development, where Vite adds scripts. */
const policy: Plugin = {
  name: "policy",
  apply: "build",
  transformIndexHtml: () => [
    { tag: "meta", attrs: { "http-equiv": "Content-Security-Policy", content: POLICY }, injectTo: "head-prepend" },
  ],
};

/** `@fa/conformance` looks for its golden data in `../golden/` as seen from its script. */
const golden: Plugin = {
  name: "golden",
  apply: "build",
  generateBundle() {
    const home = dirname(createRequire(import.meta.url).resolve("@fa/conformance/package.json"));
    const folder = join(home, "golden");
    for (const name of readdirSync(folder)) {
      this.emitFile({ type: "asset", fileName: `golden/${name}`, source: readFileSync(join(folder, name)) });
    }
  },
};

/** Results name the commit that they are of. Only a server that stands in the checkout knows it. */
const commit: Plugin = {
  name: "commit",
  generateBundle() {
    this.emitFile({ type: "asset", fileName: "commit.json", source: "null\n" });
  },
  configurePreviewServer({ middlewares }) {
    middlewares.use("/commit.json", (_request, response) => {
      response.setHeader("Content-Type", "application/json");
      response.end(`${JSON.stringify(currentCommit())}\n`);
    });
  },
};

export default defineConfig({
  base: "./",
  appType: "mpa",
  plugins: [policy, golden, commit],
  build: {
    target: "es2024",
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 1200,
    // A busy machine is no complaint about the page.
    rolldownOptions: { checks: { bundlerTimings: false } },
  },
  worker: { format: "es" },
  server: { headers: ISOLATION },
  preview: {
    headers: {
      ...ISOLATION,
      "Content-Security-Policy": POLICY,
      "X-Content-Type-Options": "nosniff",
      "Referrer-Policy": "no-referrer",
    },
  },
});
