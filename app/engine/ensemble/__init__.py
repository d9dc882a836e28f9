"""An ensemble is several networks that answer as one."""
