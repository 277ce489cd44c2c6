"""One file per kernel facility; functions bear man-page names; no policy."""
