"""`r1reward serve`: a reward model behind HTTP, with cohorts for trainers and a page for people."""
