-- note_context: the span of a running attempt, for whoever has to tell of it or comes after it.
local r = redis.call('HMGET', task, 'state', 'attempt')
if r[1] == 'running' and r[2] == args.attempt then redis.call('HSET', task, 'attempt_context', args.context) end
return {}
