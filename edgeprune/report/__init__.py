"""What a compile or an inspection found out: as JSON for programs, as tables for a terminal."""
