/**
 * Assembles a shader from `.wgsl` files and typed parameters. The files are WGSL with directives in comments, each alone
 * on its line, and parameters in `${}`:
 *
 *   //#include "lib/launch.wgsl"        the file, expanded with the same parameters, once a shader
 *   //#if CAUSAL && D > 64              lines up to //#elif, //#else or //#endif are kept or left out
 *   //#for k in D / 16                  lines up to //#endfor, repeated with k = 0, 1, ...
 *   var o_${k}: vec4f; const N = ${D / 4}u;
 *
 * Expressions are integer arithmetic on parameters: + - * / % << >> == != < <= > >= && || ! ( ). A name that is no parameter is an
 * error: what a kernel needs stands in the table and has no default in the file. Parameters are numbers and booleans,
 * never text, so nothing of a user's ends up in a shader.
 */

export type ShaderParams = Readonly<Record<string, number | boolean>>;

/** WGSL of `file`, one of `sources`, for the parameters given. */
export function expand(file: string, params: ShaderParams, sources: Readonly<Record<string, string>>): string {
  const included = new Set<string>();

  const expandFile = (name: string): string => {
    if (included.has(name)) return "";
    included.add(name);
    if (!Object.hasOwn(sources, name)) throw new Error(`${file}: no shader source ${name}`);
    return expandLines(name, sources[name].split("\n"), params);
  };

  const expandLines = (name: string, lines: readonly string[], values: ShaderParams): string => {
    const out: string[] = [];
    for (let at = 0; at < lines.length; at++) {
      const line = lines[at];
      const [, directive, rest = ""] = /^\s*\/\/#(\w+)\s*(.*?)\s*$/.exec(line) ?? [];
      if (directive === undefined) {
        out.push(line.replaceAll(/\$\{([^}]*)\}/g, (_, expression: string) => String(evaluate(expression, values))));
      } else if (directive === "include") {
        out.push(expandFile(rest.replaceAll('"', "")));
      } else if (directive === "if") {
        const { branches, end } = blockOf(lines, at, name);
        const taken = branches.find(({ condition }) => condition === undefined || evaluate(condition, values));
        if (taken) out.push(expandLines(name, taken.lines, values));
        at = end;
      } else if (directive === "for") {
        const { branches, end } = blockOf(lines, at, name);
        const [, variable, count] = /^(\w+) in (.+)$/.exec(rest) ?? [];
        if (variable === undefined) throw new Error(`${name}: //#for takes "name in count", not "${rest}"`);
        const times = evaluate(count, values);
        for (let n = 0; n < times; n++) out.push(expandLines(name, branches[0].lines, { ...values, [variable]: n }));
        at = end;
      } else {
        throw new Error(`${name}: unknown or unmatched directive //#${directive}`);
      }
    }
    return out.join("\n");
  };

  return expandFile(file);
}

interface Branch {
  /** Undefined: taken if none before it was. */
  readonly condition: string | undefined;
  readonly lines: string[];
}

/** The branches of the block that opens at `start`, and the line that closes it. */
function blockOf(lines: readonly string[], start: number, name: string): { branches: Branch[]; end: number } {
  const opening = /\/\/#(?:if|for)\s+(.*)$/.exec(lines[start])!;
  const branches: Branch[] = [{ condition: opening[1], lines: [] }];
  let depth = 0;
  for (let at = start + 1; at < lines.length; at++) {
    const [, directive, rest = ""] = /^\s*\/\/#(\w+)\s*(.*?)\s*$/.exec(lines[at]) ?? [];
    if (directive === "endif" || directive === "endfor") {
      if (depth === 0) return { branches, end: at };
      depth--;
    }
    if (depth === 0 && (directive === "elif" || directive === "else")) {
      branches.push({ condition: directive === "elif" ? rest : undefined, lines: [] });
      continue;
    }
    if (directive === "if" || directive === "for") depth++;
    branches.at(-1)!.lines.push(lines[at]);
  }
  throw new Error(`${name}: ${lines[start].trim()} has no end`);
}

/** Binary operators by how tightly they bind, loosest first. */
const OPERATORS: readonly Readonly<Record<string, (a: number, b: number) => number>>[] = [
  { "||": (a, b) => Number(a !== 0 || b !== 0) },
  { "&&": (a, b) => Number(a !== 0 && b !== 0) },
  {
    "==": (a, b) => Number(a === b),
    "!=": (a, b) => Number(a !== b),
    "<=": (a, b) => Number(a <= b),
    ">=": (a, b) => Number(a >= b),
    "<": (a, b) => Number(a < b),
    ">": (a, b) => Number(a > b),
  },
  { "<<": (a, b) => a << b, ">>": (a, b) => a >> b },
  { "+": (a, b) => a + b, "-": (a, b) => a - b },
  { "*": (a, b) => a * b, "/": (a, b) => Math.trunc(a / b), "%": (a, b) => a % b },
];

/** The value of an expression; true and false are 1 and 0. */
export function evaluate(expression: string, params: ShaderParams): number {
  const tokens = expression.match(/\w+|\|\||&&|<<|>>|[=!<>]=|[-+*/%()!<>]|\S/g) ?? [];
  let at = 0;
  const fail = (why: string): never => {
    throw new Error(`${why} in shader expression "${expression}"`);
  };
  const operand = (): number => {
    const token = tokens[at++];
    if (token === "!") return Number(operand() === 0);
    if (token === "-") return -operand();
    if (token === "(") {
      const value = binary(0);
      if (tokens[at++] !== ")") fail("missing )");
      return value;
    }
    if (token === undefined || !/^\w+$/.test(token)) return fail(`unexpected ${token ?? "end"}`);
    if (/^\d+$/.test(token)) return Number(token);
    return Object.hasOwn(params, token) ? Number(params[token]) : fail(`no parameter ${token}`);
  };
  const binary = (level: number): number => {
    if (level === OPERATORS.length) return operand();
    let left = binary(level + 1);
    for (let apply = OPERATORS[level][tokens[at]]; apply; apply = OPERATORS[level][tokens[at]]) {
      at++;
      left = apply(left, binary(level + 1));
    }
    return left;
  };
  const value = binary(0);
  if (at < tokens.length) fail(`unexpected ${tokens[at]}`);
  return value;
}
