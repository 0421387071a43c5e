-- end: exactly one ending. With an attempt, only by the worker that holds it; without, by the janitor, from any state.
-- A worker names the entry that it wrote last: when Redis has lost that, the task ends as data_lost. Without a state it
-- ends only then.
local r = redis.call('HMGET', task, 'state', 'attempt', 'wire')
if not r[1] then return {'missing'} end
if r[1] == 'ended' then return {'ended', r[3]} end
if args.attempt and (r[1] ~= 'running' or r[2] ~= args.attempt) then return {'lost'} end
if args.written and has_lost(args.written) then
  finish_lost()
  return {'ended', 'FAILURE'}
end
if not args.state then return {'lost'} end
finish(args.state, args.outcome_type or '', args.outcome or '', args.result or '')
local conversation = field('conversation')
if args.messages and conversation and conversation ~= '' then
  redis.call('HSET', conversation, 'messages', args.messages, 'version', id)
  redis.call('PEXPIRE', conversation, args.conversation_ms)
end
return {'done'}
