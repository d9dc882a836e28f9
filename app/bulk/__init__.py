"""Bulk annotates whole corpora, from file to file, in constant memory; a stopped run can go on."""
