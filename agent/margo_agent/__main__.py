"""`python -m margo_agent`: the loop starts its passes this way."""

from margo_agent.main import main

main()
