"""`ftkit data`: the group of commands on datasets."""

from __future__ import annotations

import typer

from ftkit.cli.commands.data import audit, check, fix, queue, split, stats

app = typer.Typer(no_args_is_help=True, help="Check, describe, audit, correct and split datasets.")
app.command("check", epilog=check.EXAMPLES)(check.check_command)
app.command("audit", epilog=audit.EXAMPLES)(audit.audit_command)
app.command("fix", epilog=fix.EXAMPLES)(fix.fix_command)
app.command("split", epilog=split.EXAMPLES)(split.split_command)
app.command("queue", epilog=queue.EXAMPLES)(queue.queue_command)
app.command("stats", epilog=stats.EXAMPLES)(stats.stats_command)
