-- find: the task that a request made when it was sent before, as `accept` would find it.
return sent_before() or {'new'}
