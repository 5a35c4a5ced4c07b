"""What the tests share: real servers, what they expose, waiting for conditions."""
