/** Of this package, as package.json has it: `npm run version` writes it. */
export const VERSION = "0.0.0";
