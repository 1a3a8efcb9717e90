/**
 * `@fa/core/auto`: `createAttention` that tries what is installed. For Node, and pages with an import map; bundlers cannot
 * follow imports whose names are data, so bundled code names its back ends with `createAttention` from `@fa/core`.
 */
import { createAttention as createFrom, type Attention } from "./attention.ts";
import type { BackendProvider } from "./backend.ts";
import { refuse, show } from "./errors.ts";
import { checkOptions, mustHold } from "./problem.ts";
import { reference } from "./reference/backend.ts";
import type { Selection } from "./select.ts";

export * from "./index.ts";

/** Back ends in order of preference, by the package and the name that each is exported as. */
const PACKAGES: Readonly<Record<string, string>> = {
  cuda: "@fa/backend-cuda",
  webgpu: "@fa/backend-webgpu",
  wasm: "@fa/backend-wasm",
};

export interface AutoOptions extends Selection {
  /** How to import a package by name. Pass `(name) => import(name)` to resolve from your own module. */
  readonly import?: ((specifier: string) => Promise<unknown>) | undefined;
}

/**
 * Opens the best back end that is installed: cuda, webgpu, wasm, then the reference. In Node, `FA_BACKEND=wasm` tries that
 * one alone.
 * @throws FaError FA_OPTION if FA_BACKEND names none of them, FA_UNAVAILABLE if the one it names does not work
 */
export async function createAttention(options: AutoOptions = {}): Promise<Attention> {
  checkOptions("createAttention", options, ["select", "problem", "store", "import"]);
  const { import: importPackage = importInstalled, ...selection } = options;
  mustHold(
    typeof importPackage === "function",
    "createAttention",
    "import",
    "a function from a package's name to its module",
    importPackage,
    "Pass (name) => import(name).",
  );
  return createFrom({ ...selection, backends: wanted().map((name) => discovered(name, importPackage)) });
}

function wanted(): string[] {
  const all = [...Object.keys(PACKAGES), "reference"];
  const named = (globalThis as { process?: { env?: Record<string, string | undefined> } }).process?.env?.FA_BACKEND;
  if (!named) return all;
  if (!all.includes(named)) {
    refuse("FA_OPTION", {
      where: "createAttention(FA_BACKEND)",
      rule: `FA_BACKEND must be one of ${all.join(", ")}`,
      got: show(named),
      fix: "Unset it to try them all.",
    });
  }
  return [named];
}

/** A provider whose package is imported when it is probed. */
function discovered(name: string, importPackage: (specifier: string) => Promise<unknown>): BackendProvider {
  const specifier = PACKAGES[name];
  if (specifier === undefined) return reference();
  let provider: BackendProvider | undefined;
  return {
    name,
    async probe() {
      let module: Record<string, () => BackendProvider>;
      try {
        module = (await importPackage(specifier)) as typeof module;
      } catch (error) {
        return { ok: false, reason: notImported(specifier, error) };
      }
      provider = module[name]();
      return provider.probe();
    },
    open: () => provider!.open(),
  };
}

function notImported(specifier: string, error: unknown): string {
  const { code, message } = error as { code?: string; message?: string };
  const missing = code === "ERR_MODULE_NOT_FOUND" && message?.includes(specifier);
  return missing || !message ? `not installed: npm install ${specifier}` : `${specifier} failed to load: ${message}`;
}

/** From this package, and where a strict package manager hides siblings from it, from the working directory. */
async function importInstalled(specifier: string): Promise<unknown> {
  try {
    return await import(/* @vite-ignore */ /* webpackIgnore: true */ specifier);
  } catch (error) {
    const found = resolveFromWorkingDirectory(specifier);
    if (found === undefined) throw error;
    return import(/* @vite-ignore */ /* webpackIgnore: true */ found);
  }
}

interface Node {
  cwd(): string;
  getBuiltinModule(name: "module"): { createRequire: (from: string) => { resolve(specifier: string): string } };
  getBuiltinModule(name: "url"): { pathToFileURL: (path: string) => URL };
}

function resolveFromWorkingDirectory(specifier: string): string | undefined {
  const { process } = globalThis as { process?: Node };
  try {
    const { createRequire } = process!.getBuiltinModule("module");
    const { pathToFileURL } = process!.getBuiltinModule("url");
    return pathToFileURL(createRequire(`${process!.cwd()}/`).resolve(specifier)).href;
  } catch {
    return undefined;
  }
}
