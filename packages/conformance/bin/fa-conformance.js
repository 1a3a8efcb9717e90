#!/usr/bin/env node
// The bin is a committed file because a link to dist/ would not exist yet when the workspace is installed.
import "../dist/cli.js";
