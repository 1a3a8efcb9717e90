#!/usr/bin/env node
import { main } from "./main.node.ts";

const SHOW_CURSOR = "\u001b[?25h";
const CODES = { SIGINT: 130, SIGTERM: 143, SIGPIPE: 141 } as const;

const stop = new AbortController();
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.on(signal, () => {
    const code = CODES[signal];
    // The first asks the run to stop between two calls; the second does not ask.
    if (stop.signal.aborted) {
      if (process.stdout.isTTY) process.stdout.write(SHOW_CURSOR);
      process.exit(code);
    }
    stop.abort(code);
  });
}
// `fa-bench | head` closes the pipe early: nobody reads on, so stop as for a signal. --json is still written.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code !== "EPIPE") throw error;
  stop.abort(CODES.SIGPIPE);
});

process.exitCode = await main(process.argv.slice(2), { signal: stop.signal });
