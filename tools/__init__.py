"""Programs for the people who work on this repository; no part of the package."""
