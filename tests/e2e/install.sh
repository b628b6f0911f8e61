#!/bin/sh
# Installs both Claude Code versions that the end-to-end tests drive into .e2e/ at the top of the repository.
# Runs again without doing anything when they are there.
set -eu
cd "$(dirname "$0")/../.."

install() { # folder, version
    if [ "$(".e2e/$1/node_modules/.bin/claude" --version 2>/dev/null | cut -d' ' -f1)" = "$2" ]; then
        return
    fi
    mkdir -p ".e2e/$1"
    npm install --prefix ".e2e/$1" --no-save --no-audit --no-fund --loglevel=error "@anthropic-ai/claude-code@$2"
}

install new "${CLAUDE_NEW_VERSION:-2.1.330}"
install old "${CLAUDE_OLD_VERSION:-2.1.197}"
