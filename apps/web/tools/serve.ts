// npm run web [-- --port N --host H]: serves the page that was built, with the headers that threads need.

import { existsSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { preview, type PreviewServer } from "vite";

const HOME = join(import.meta.dirname, "..");
const PORT = 4173;

const HELP = `Usage: npm run web -- [options]

Serves the bench app's page with the headers that threads need, until Ctrl-C.

  --port <N>   port (default: ${PORT}; 0: any that is free)
  --host <H>   address or name to listen on (default: 127.0.0.1, this machine alone).
               Browsers give WebGPU and threads to https and to localhost only.
  --help       print this`;

export interface Address {
  readonly host: string;
  readonly port: number;
}

/** @throws Error with one line for people */
export function addressIn(argv: readonly string[]): Address | "help" {
  const { values } = parseArgs({
    args: [...argv],
    options: { port: { type: "string" }, host: { type: "string" }, help: { type: "boolean" } },
  });
  if (values.help) return "help";
  const { port: asked = String(PORT), host = "127.0.0.1" } = values;
  const port = Number(asked);
  if (!/^\d+$/.test(asked) || port > 65535)
    throw new Error(`--port must be a whole number from 0 to 65535; got ${asked}`);
  return { host, port };
}

/**
 * @param folder what was built
 * @throws Error with one line for people
 */
export async function serve({ host, port }: Address, folder: string = join(HOME, "dist")): Promise<PreviewServer> {
  if (!existsSync(join(folder, "index.html")))
    throw new Error(`there is no page in ${folder}: run npm run web, which builds it`);
  try {
    return await preview({
      root: HOME,
      logLevel: "silent",
      build: { outDir: folder },
      preview: { host, port, strictPort: true },
    });
  } catch (error) {
    const { message, code } = error as NodeJS.ErrnoException;
    if (/already in use/.test(message))
      throw new Error(`port ${port} on ${host} is in use: end who uses it, or pass --port`, { cause: error });
    if (code === "EACCES")
      throw new Error(`port ${port} may not be used by this user: pass --port with one from 1024`, { cause: error });
    if (code === "EADDRNOTAVAIL" || code === "ENOTFOUND")
      throw new Error(`${host} is no address of this machine: pass another --host`, { cause: error });
    throw error;
  }
}

if (import.meta.main) {
  try {
    const address = addressIn(process.argv.slice(2));
    if (address === "help") console.log(HELP);
    else {
      const { local = [], network = [] } = (await serve(address)).resolvedUrls ?? {};
      console.log(`${[...local, ...network].join("\n")}\nCtrl-C ends it.`);
    }
  } catch (error) {
    console.error(`web: ${(error as Error).message}`);
    process.exit(1);
  }
}
