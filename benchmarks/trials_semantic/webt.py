# features of whole unlabelled photos, and grepq-ll's scores
from featlib import *
import time, torch
from PIL import Image
torch.set_num_threads(2)
ps=[l.strip() for l in open('web.txt') if l.strip()]
rng=np.random.default_rng(0); ps=[ps[i] for i in rng.permutation(len(ps))[:1200]]
t=time.time(); ims=[np.asarray(Image.open(p).convert('RGB')) for p in ps]
f=np.concatenate([feats([v],1) for v in ims]); np.save('web_f.npy',f); print('feat',time.time()-t,f.shape,flush=True)
from grepq_metric import GRepQ
g=GRepQ.from_pretrained('grepq-ll'); out=[]
with torch.inference_mode():
    for i,v in enumerate(ims):
        x=torch.from_numpy(v.copy()).permute(2,0,1)[None].float()/255
        out.append(g(x).item())
        if i%100==99: np.save('web_ll.npy',np.array(out)); print(i,time.time()-t,flush=True)
import json; json.dump(ps,open('web_names.json','w'))
