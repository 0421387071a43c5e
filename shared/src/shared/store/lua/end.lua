-- end: exactly one ending. With an attempt, only by the worker that holds it; without, by the janitor, from any state.
-- A worker names the entry that it wrote last: when Redis has lost that, the task ends as data_lost. Without a state it
-- ends only then.
-- With `messages` it saves the task's conversation, if the conversation is still this task's turn. If it is not, it has
-- gone on without this answer, and the task ends as conversation_changed. One that is gone altogether is saved anew.
local r = redis.call('HMGET', task, 'state', 'attempt', 'wire')
if not r[1] then return {'missing'} end
if r[1] == 'ended' then return {'ended', r[3]} end
if args.attempt and (r[1] ~= 'running' or r[2] ~= args.attempt) then return {'lost'} end
if args.written and has_lost(args.written) then
  finish_lost()
  return {'ended', 'FAILURE'}
end
if not args.state then return {'lost'} end
local conversation = args.messages and field('conversation')
if conversation then
  local turn = redis.call('HGET', conversation, 'turn')
  if turn and turn ~= id then
    finish('FAILURE', 'error', args.changed, '')
    return {'ended', 'FAILURE'}
  end
end
finish(args.state, args.outcome_type or '', args.outcome or '', args.result)
if conversation then
  redis.call('HSET', conversation, 'messages', args.messages, 'version', id, 'turn', id)
  keep_conversation(conversation, field('tenant'), field('conversation_ms') or args.conversation_ms)
end
return {'done'}
