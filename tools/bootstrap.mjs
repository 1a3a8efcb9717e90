// What every `npm run` command of this repository goes through:
//
//   node tools/bootstrap.mjs [--build] [command [arguments...]]
//
// On a machine with nothing but Node >= 20 and npm it installs the workspace with the pinned pnpm, puts
// node_modules/.bin (and so the pinned Node) first on PATH, builds when asked, then becomes the command.
// With nothing to do it costs a few tenths of a second. Everything it says goes to stderr.
//
// Plain JavaScript with no dependency, because it runs on the machine's own Node before anything is installed.

import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { constants } from "node:os";
import { delimiter, join, dirname } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const bin = join(root, "node_modules", ".bin");
const windows = process.platform === "win32";
const oldestNode = 24;

const say = (line) => process.stderr.write(`fa: ${line}\n`);

/** Ends with a line of ours under the last of `output`. Waits until a slow pipe has taken it. */
async function stop(line, { code = 1, output = "" } = {}) {
  const last = output.trimEnd().split("\n").slice(-40).join("\n");
  await new Promise((written) => process.stderr.write(`${last && `${last}\n`}fa: ${line}\n`, written));
  process.exit(code);
}

/** Runs quietly; resolves to the exit code and everything it printed. */
function capture(command, args, env) {
  return new Promise((resolve) => {
    let output = "";
    const child = spawn(command, args, { cwd: root, env, stdio: ["ignore", "pipe", "pipe"], shell: windows });
    child.stdout.on("data", (chunk) => (output += chunk));
    child.stderr.on("data", (chunk) => (output += chunk));
    child.on("error", (error) => resolve({ code: 127, output: `${output}${error.message}\n` }));
    child.on("close", (code, signal) => resolve({ code: code ?? 128 + constants.signals[signal], output }));
  });
}

// -- install ---------------------------------------------------------------------------------------------------

const stampFile = join(root, "node_modules", ".fa-installed");

/** Changes exactly when an install has something to do. Contents, not times: a checkout rewrites times. */
function installStamp() {
  const hash = createHash("sha256").update(`${process.platform}-${process.arch}`);
  for (const file of ["pnpm-lock.yaml", "pnpm-workspace.yaml"]) hash.update(readFileSync(join(root, file)));
  return hash.digest("hex");
}

const isInstalled = () => existsSync(stampFile) && readFileSync(stampFile, "utf8") === installStamp();

const installFailures = [
  [/ENOSPC|No space left/i, "the disk is full. Free about 1 GB and run the command again."],
  [
    /OUTDATED_LOCKFILE|LOCKFILE_CONFIG_MISMATCH/,
    "a package.json asks for what pnpm-lock.yaml lacks. Run `npx pnpm install` and commit the lock file.",
  ],
  [/EACCES|EPERM|EROFS/, "a folder cannot be written (see above). Check who owns the checkout and the npm cache."],
  [
    /ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|dns error|error sending request|META_FETCH_FAIL/i,
    "the package registry cannot be reached. The first run needs the network; check it, or the proxy and registry settings of npm.",
  ],
];

async function install() {
  const { packageManager } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  say(`installing the workspace with ${packageManager} (only when the lock file changed; under a minute)...`);
  // CI=true: never ask a question. `npm --silent` would silence the reason of a failure, NODE_ENV=production leave the
  // tools out. npm would try a dead network for over a minute.
  const env = { ...process.env, CI: "true", npm_config_loglevel: "error", npm_config_fetch_retry_mintimeout: "500" };
  delete env.NODE_ENV;
  // The age policy was applied when the lock file was written; here it would ask the registry about every package anew.
  const args = [
    "--yes",
    "--prefer-offline",
    packageManager,
    "install",
    "--frozen-lockfile",
    "--config.minimumReleaseAge=0",
  ];
  const { code, output } = await capture("npx", args, env);
  if (code === 0) {
    writeFileSync(stampFile, installStamp());
    return;
  }
  const cause = installFailures.find(([pattern]) => pattern.test(output))?.[1];
  await stop(`the install failed: ${cause ?? "see pnpm's message above."}`, { output });
}

// -- build -----------------------------------------------------------------------------------------------------

async function build(env) {
  const { code, output } = await capture(
    "turbo",
    ["run", "build", "--output-logs=errors-only", "--log-order=grouped"],
    env,
  );
  if (code !== 0) await stop("the build failed, see above.", { code, output });
}

// -- the command -----------------------------------------------------------------------------------------------

function become([command, ...args], env) {
  const child = spawn(command, args, { cwd: root, env, stdio: "inherit", shell: windows && command !== "node" });
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) {
    process.on(signal, () => {
      // A terminal sends Ctrl-C to the whole group, the child has it already: a second one would force it to quit.
      if (signal !== "SIGINT" || !process.stdin.isTTY) child.kill(signal);
    });
  }
  if (env.npm_lifecycle_event) {
    // npm hands a signal to a shell that dies of it and tells nobody; being orphaned is all that is noticed here.
    const parent = process.ppid;
    setInterval(() => process.ppid === parent || child.kill("SIGTERM"), 500).unref();
  }
  child.on("error", (error) => stop(`cannot run ${command}: ${error.message}`, { code: 127 }));
  child.on("exit", (code, signal) => {
    if (signal === null) process.exit(code);
    process.removeAllListeners(signal);
    process.kill(process.pid, signal);
  });
}

const nodeMajor = Number(process.versions.node.split(".")[0]);
if (nodeMajor < 20) await stop(`Node 20 or newer is needed to start; this is ${process.version}.`);

const argv = process.argv.slice(2);
const wantsBuild = argv[0] === "--build";
if (wantsBuild) argv.shift();

if (!isInstalled()) await install();

if (nodeMajor < oldestNode && !existsSync(join(bin, "node"))) {
  await stop(
    `no Node comes from npm for ${process.platform}-${process.arch}: install Node ${oldestNode} or newer (this is ${process.version}).`,
  );
}

const env = {
  ...process.env,
  PATH: [bin, process.env.PATH].join(delimiter),
  TURBO_TELEMETRY_DISABLED: "1",
  TURBO_NO_UPDATE_NOTIFIER: "1",
  DO_NOT_TRACK: "1",
};
// Some of the tools colour a pipe as they would a terminal.
if (!process.stdout.isTTY && !env.FORCE_COLOR) env.NO_COLOR = "1";
if (wantsBuild) await build(env);
if (argv.length > 0) become(argv, env);
