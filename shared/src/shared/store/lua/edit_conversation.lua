-- edit_conversation: makes a stored conversation, or changes it between its turns. The id is that of its new version.
-- With `messages` it is refused under an open turn, and where the version is not the one that the caller has seen
-- (`built_on`; without it the conversation is made). `metadata` alone may be changed at any time. What it is now, beside
-- its messages, is in the reply.
local conversation = args.conversation
if args.messages then
  local turn = open_turn(conversation)
  if turn then return {'conversation_busy', turn} end
  if args.built_on and redis.call('HGET', conversation, 'version') ~= args.built_on then
    return {'conversation_changed'}
  end
  local full = no_room_for(conversation, args.tenant)
  if full then return full end
  redis.call('HSET', conversation, 'messages', args.messages, 'version', id)
  redis.call('HSETNX', conversation, 'created', now_ms())
elseif redis.call('EXISTS', conversation) == 0 then
  return {'missing'}
end
if args.metadata then redis.call('HSET', conversation, 'metadata', args.metadata) end
-- Never sooner than before: it does not expire under an open turn.
keep_conversation(conversation, args.tenant, math.max(tonumber(args.conversation_ms), redis.call('PTTL', conversation)))
local is = redis.call('HMGET', conversation, 'created', 'metadata')
return {'done', is[1] or '0', is[2] or '{}'}
