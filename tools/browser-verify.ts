// npm run browser-verify: the conformance suite on the WebGPU of a browser.
//
//   --browser COMMAND  started without a window; default: firefox or firefox-esr. "none" prints an address to be opened by hand
//   --only TEXT, --capability a,b   as conformance has them          --runs N   random problems a property; default 4
//   --software         also on a processor that plays a GPU          --seconds N  at most; default 3600
//   --out FILE         default: apps/bench/results/conformance/PLATFORM-BROWSER-webgpu.json
//
// Firefox gets a profile of its own, in which WebGPU is on and takes any adapter: on Linux it is off by itself. Exits 1 unless every
// check passed, or was refused with a reason.

import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { parseArgs } from "node:util";
import { createServer, defaultClientConditions, type Plugin } from "vite";
import type { CheckResult } from "@fa/conformance";
import type { Message } from "./browser-verify/page.ts";
import { root } from "./test-needs.ts";
import { says, settle } from "./webgpu-report.ts";

const { values: flags } = parseArgs({
  options: {
    browser: { type: "string" },
    only: { type: "string" },
    capability: { type: "string" },
    runs: { type: "string", default: "4" },
    seconds: { type: "string", default: "3600" },
    software: { type: "boolean", default: false },
    out: { type: "string" },
  },
});

const browser = flags.browser ?? ["firefox", "firefox-esr"].find((name) => says(name, "--version") !== undefined);
if (!browser) throw new Error("no Firefox is installed: apt-get install firefox-esr, or name a browser in --browser");

const FIREFOX = `
user_pref("dom.webgpu.enabled", true);
user_pref("gfx.webgpu.ignore-blocklist", true);
user_pref("app.update.enabled", false);
user_pref("app.normandy.enabled", false);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
`;
function argumentsOf(command: string, profile: string, address: string): string[] {
  if (!/firefox/i.test(command))
    return ["--headless=new", "--no-sandbox", "--enable-unsafe-webgpu", `--user-data-dir=${profile}`, address];
  writeFileSync(join(profile, "user.js"), FIREFOX);
  return ["--headless", "--no-remote", "--profile", profile, address];
}

const results: CheckResult[] = [];
const ended = Promise.withResolvers<Pick<Message & { kind: "end" }, "device" | "agent" | "reason">>();
const messages: Plugin = {
  name: "messages",
  configureServer({ middlewares }) {
    middlewares.use("/message", (request, response) => {
      let body = "";
      request.on("data", (text: Buffer) => (body += text.toString()));
      request.on("end", () => {
        response.end();
        const message = JSON.parse(body) as Message;
        if (message.kind === "end") ended.resolve(message);
        else {
          results.push(message.result);
          console.log(`${results.length} ${message.result.status}: ${message.result.name}`);
        }
      });
    });
  },
};

const start = performance.now();
const server = await createServer({
  root: join(root, "tools/browser-verify"),
  configFile: false,
  logLevel: "error",
  resolve: { conditions: ["@fa/source", ...defaultClientConditions] },
  server: { port: 0, fs: { allow: [root] } },
  plugins: [messages],
});
await server.listen();
const asked = new URLSearchParams({ runs: flags.runs });
for (const name of ["only", "capability"] as const) if (flags[name]) asked.set(name, flags[name]);
if (flags.software) asked.set("software", "");
const address = `${server.resolvedUrls!.local[0]}?${asked}`;
const profile = mkdtempSync(join(tmpdir(), "fa-browser-"));
const child =
  browser === "none" ? undefined : spawn(browser, argumentsOf(browser, profile, address), { stdio: "ignore" });
console.log(child ? `${browser} at ${address}` : `open ${address}`);
const none = { device: "did not open", agent: browser };
child?.on("error", ({ message }) => ended.resolve({ ...none, reason: message }));
child?.on("exit", (code) => ended.resolve({ ...none, reason: `${browser} ended with ${code}` }));
const timer = setTimeout(() => ended.resolve({ ...none, reason: "no time was left" }), Number(flags.seconds) * 1000);

const { device, agent, reason } = await ended.promise;
clearTimeout(timer);
const seconds = Math.round((performance.now() - start) / 100) / 10;
child?.removeAllListeners("exit").kill();
await server.close();
const version = (browser === "none" ? undefined : says(browser, "--version")) ?? agent;
process.exitCode = settle({
  name: version,
  // A page is not told.
  driver: basename(process.env["VK_DRIVER_FILES"] ?? "unknown"),
  webgpu: version,
  runtime: agent,
  seconds,
  tiers: [
    {
      tier: "subgroups",
      only: flags.only,
      device,
      results,
      missing: reason === undefined ? [] : [{ part: 1, reason }],
      processSeconds: Math.round(seconds),
    },
  ],
  out: flags.out,
});
rmSync(profile, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 });
